"""The native stack: installs, starts, watches and stops the whole platform on one machine."""
