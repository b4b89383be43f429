"""Convert the student for LiteRT, and time it there: each in a process of its own."""
