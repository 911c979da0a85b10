"""Telemetry over time, at the resolution of the request."""
