"""Tells what a pump does and suffers from; so far the physics it judges by."""
