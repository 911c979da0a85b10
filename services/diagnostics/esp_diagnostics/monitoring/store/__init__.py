"""Storage of findings, states, snapshots, models, rules and backlogs."""
