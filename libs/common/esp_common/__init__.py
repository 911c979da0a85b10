"""Code that the platform's services share; it imports no service."""
