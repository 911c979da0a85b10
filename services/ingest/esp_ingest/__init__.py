"""Takes readings in, screens and stores them, and publishes what was accepted."""
