"""The service over HTTP: parse, authorise, call, answer."""
