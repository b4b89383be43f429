"""Prefect around DVC: the flow, what it runs stages with, and the command line."""
