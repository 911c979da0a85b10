"""The HTTP edge: parse, authorise, call, answer."""
