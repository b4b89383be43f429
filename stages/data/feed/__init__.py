"""Feeds of training images."""
