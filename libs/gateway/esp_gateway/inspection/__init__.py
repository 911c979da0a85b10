"""Inspect a data file: propose a map, and show the first readings as they would be stored."""
