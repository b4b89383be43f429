"""The sections of ``params.yaml``, combined in :mod:`stages.params`."""
