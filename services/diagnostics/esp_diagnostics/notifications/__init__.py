"""Deliver notices of alerts to destinations."""
