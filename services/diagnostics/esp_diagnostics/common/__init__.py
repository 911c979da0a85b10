"""Helpers that several capabilities share: answers, cache, times."""
