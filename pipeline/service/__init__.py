"""Integration with Prefect: server, worker, schedule, cancellation and artifacts."""
