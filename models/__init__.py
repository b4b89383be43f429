"""Networks and what learns in them."""

from models.networks import build

__all__ = ["build"]
