"""Networks, weights and distillation methods."""

from models.networks import build

__all__ = ["build"]
