"""The rules of identity: pure, no I/O, and no clock: time is an argument."""
