"""Identity rules: pure, no I/O, and time is an argument."""
