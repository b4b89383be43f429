"""Releases of bundles with DVC's registry."""
