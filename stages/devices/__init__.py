"""Devices that measure models; ``runner.py`` runs on all that have Python."""
