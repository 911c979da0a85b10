"""The core of ingest: pure rules over columns of readings; no I/O, no framework, no clock."""
