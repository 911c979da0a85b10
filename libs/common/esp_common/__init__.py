"""What every service of the platform shares; it knows no service."""
