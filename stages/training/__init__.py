"""The training loop that all methods share."""
