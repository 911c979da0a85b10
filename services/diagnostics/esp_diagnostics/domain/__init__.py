"""The core of diagnostics: physics of pump, fluid and motor over columns; no I/O, no framework, no clock.

Shapes: what belongs to a pump is (n,); what is measured is (..., n), the pump on the last axis and
any others, time say, before it. Numbers broadcast. NaN is a value that is missing, and whatever
depends on it is NaN at that place and at no other.
"""
