"""Detection of exceeded limits, conditions and anomalies; pure."""
