"""Message formats shared by services and gateways: channels, readings, Arrow batches, events."""
