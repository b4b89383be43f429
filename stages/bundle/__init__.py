"""What a bundle has besides the models: card, SBOM, manifest and signature."""
