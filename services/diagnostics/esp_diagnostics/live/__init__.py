"""The live stream over WebSocket and Redis."""
