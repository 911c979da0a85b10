"""HTTP routes: parse, authorise, call, answer."""
