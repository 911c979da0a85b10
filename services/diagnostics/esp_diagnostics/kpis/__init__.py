"""Key figures: uptime, run life, production, energy and health."""
