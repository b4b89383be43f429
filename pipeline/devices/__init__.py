"""The user's own devices: measured, served, shown the page of a browser."""
