"""Variants and seeds as DVC experiments, here or on a cluster."""
