"""int8 models: the conversion, and the ranges that it needs."""
