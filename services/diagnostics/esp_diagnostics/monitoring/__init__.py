"""Evaluate each pump's readings as they arrive, and record findings."""
