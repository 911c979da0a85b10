"""Stored findings, states, snapshots, models, rules and backlogs."""
