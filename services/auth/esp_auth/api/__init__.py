"""The HTTP API: routers that parse, authorise, call and answer."""
