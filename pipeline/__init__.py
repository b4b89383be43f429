"""The Prefect flow around DVC, sweeps, comparisons, devices, sharing, and the command line."""
