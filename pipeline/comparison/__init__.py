"""Comparison of experiments: `ackd compare` and `ackd choose`."""
