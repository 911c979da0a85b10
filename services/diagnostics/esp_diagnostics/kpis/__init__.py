"""Run life, downtime and other key figures."""
