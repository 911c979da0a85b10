"""Live stream over WebSocket and Redis."""
