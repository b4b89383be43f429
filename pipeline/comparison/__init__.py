"""Experiments beside each other: what `ackd compare` and `ackd choose` are made of."""
