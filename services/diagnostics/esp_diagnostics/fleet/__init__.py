"""Overview of all pumps."""
