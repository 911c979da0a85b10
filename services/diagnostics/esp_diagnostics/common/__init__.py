"""Helpers shared by capabilities: request types, response cache, times."""
