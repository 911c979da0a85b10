"""Registered pumps: nameplates copied from ingest, and user settings."""
