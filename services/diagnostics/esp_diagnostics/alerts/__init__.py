"""The alert life cycle (ISA-18.2): rules, transitions, store, routes."""
