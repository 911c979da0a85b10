"""Operating point of a pump: measured, estimated, what-if."""
