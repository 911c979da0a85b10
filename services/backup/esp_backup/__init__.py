"""Backups of the platform, and proof that they restore."""
