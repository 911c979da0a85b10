"""The HTTP API: parse, authorise, call, answer."""
