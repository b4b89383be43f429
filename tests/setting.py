"""The setting that tests build methods for."""

from typing import Any

import torch

from models.distillers.base import Setting


def make_setting(**known: Any) -> Setting:
    """Describe 48 training images of three classes and 16 pixels, in batches of 6."""
    default = Setting(None, 16, torch.arange(48) % 3, batch_size=6, epochs=8)
    return default._replace(**known)
