"""Alert life cycle after ISA-18.2: model, rules, transitions, store and routes."""
