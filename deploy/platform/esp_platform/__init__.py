"""Bootstrap of the servers that the platform runs on, shared by the native stack, Compose and Helm."""
