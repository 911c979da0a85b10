"""Telemetry over time, at the resolution the request needs."""
