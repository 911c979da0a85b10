"""What is archived, how it is laid out and what an export must prove: pure, no I/O, no clock."""
