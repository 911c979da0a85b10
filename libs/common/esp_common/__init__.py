"""Code that the platform's services share; it imports no service."""

__version__ = "0.2.0"
