"""Measurement on the user's devices, deployment to them, and the browser's page."""
