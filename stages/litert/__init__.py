"""Convert the student for LiteRT and time it, each in a process of its own."""
