"""HTTP API: routers that parse, authorize, call and answer."""
