"""Sweeps: variants and seeds as DVC experiments, on this machine or on a cluster."""
