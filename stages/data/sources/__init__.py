"""Image sources, one module for each scheme of ``data.source``."""
