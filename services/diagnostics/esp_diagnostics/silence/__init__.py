"""Alerts for pumps and gateways that send no data."""
