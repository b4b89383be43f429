"""The parts of a bundle besides the models: card, SBOM, manifest and signature."""
