"""The stages of dvc.yaml, and the tools that they share."""
