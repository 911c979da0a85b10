"""Operating points of pumps: measured, estimated, predicted."""
