"""Images: sources, splits and feeds."""
