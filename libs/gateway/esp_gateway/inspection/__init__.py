"""Inspection of a data file: a proposed map, and the first readings as they would be stored."""
