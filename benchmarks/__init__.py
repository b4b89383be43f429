"""Comparisons with other projects; may import everything else, and is not installed."""
