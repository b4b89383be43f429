"""Average pooling with a deterministic gradient on every device."""

import torch
from torch import Tensor


def average_pool(feature_map: Tensor, height: int, width: int) -> Tensor:
    """Pool ``[B, C, H, W]`` to ``[B, C, height, width]`` in at least float32.

    The windows are those of ``adaptive_avg_pool2d``, whose gradient is not deterministic on a GPU.
    Pooling is therefore written as products with one matrix for rows and one for columns.
    """
    feature_map = feature_map.to(torch.promote_types(feature_map.dtype, torch.float32))
    if feature_map.shape[2:] == (height, width):
        return feature_map
    rows = _windows(feature_map.shape[2], height, feature_map.device).to(feature_map.dtype)
    columns = _windows(feature_map.shape[3], width, feature_map.device).to(feature_map.dtype)
    with torch.autocast(feature_map.device.type, enabled=False):
        return torch.einsum("bchw,ih,jw->bcij", feature_map, rows, columns)


def _windows(length: int, parts: int, device: torch.device) -> Tensor:
    """Return a matrix ``[parts, length]`` whose rows average one window each."""
    part = torch.arange(parts, device=device).unsqueeze(1)
    place = torch.arange(length, device=device)
    first, last = part * length // parts, ((part + 1) * length - 1) // parts
    inside = ((first <= place) & (place <= last)).double()
    return inside / inside.sum(1, keepdim=True)
