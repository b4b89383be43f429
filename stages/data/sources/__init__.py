"""Where images come from: one file for each scheme of ``data.source``."""
