"""Train an int8 model where calibration alone loses too much."""
