"""Checkpoints of running trainings, in atomic files and locked folders."""
