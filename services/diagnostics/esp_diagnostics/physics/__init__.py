"""Physics of pump, fluid and motor over columns; no I/O, no framework, no clock.

Shapes: a value per pump is (n,); a measured value is (..., n), with the pump on the last axis and others,
such as time, before it. Scalars broadcast. NaN marks a missing value and propagates to every result that
depends on it.
"""
