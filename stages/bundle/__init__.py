"""What goes to a device: the model card, the SBOM, the manifest, its signature and its check."""
