"""Convert models to int8, and calibrate their ranges."""
