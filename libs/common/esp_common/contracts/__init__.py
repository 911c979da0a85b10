"""What services and gateways say to each other: channels, readings, Arrow batches, events."""
