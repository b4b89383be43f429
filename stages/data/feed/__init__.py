"""How training images reach a network."""
