"""Deliver alerts to destinations."""
