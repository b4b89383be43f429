"""Prefect's side: server, worker, schedule, and what a run shows there."""
