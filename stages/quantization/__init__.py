"""int8 models: the images that ranges are calibrated on, and the conversion."""
