"""The sections of ``params.yaml``; :mod:`stages.params` puts them together."""
