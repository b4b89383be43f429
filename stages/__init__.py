"""The stages of ``dvc.yaml`` and their shared tools."""
