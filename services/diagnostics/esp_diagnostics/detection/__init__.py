"""Detection of limits, conditions and anomalies; pure."""
