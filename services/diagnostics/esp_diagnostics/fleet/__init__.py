"""State of all pumps at a glance."""
