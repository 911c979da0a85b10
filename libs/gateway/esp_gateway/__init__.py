"""The reference field gateway: a store-and-forward client, file replay and a simulated field."""
