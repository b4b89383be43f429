"""timm's networks without optional blocks, which are faster to export."""

import timm
import torch
from torch import nn


@torch.no_grad()
def build_shallow(name: str, num_classes: int) -> nn.Module:
    """Build a network of timm with as few blocks per stage as its channels allow."""
    network = timm.create_model(name, num_classes=num_classes).eval()
    for stage in getattr(network, "blocks", None) or network.stages:
        blocks = getattr(stage, "blocks", stage)
        for index in range(len(blocks) - 1, 0, -1) if isinstance(blocks, nn.Sequential) else ():
            block = blocks.pop(index)
            try:
                network(torch.zeros(1, 3, 64, 64))
            except RuntimeError:  # it changes the number of channels
                blocks.insert(index, block)
    return network
