"""Convert the student for LiteRT and time it, each in a separate process."""
