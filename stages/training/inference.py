"""A network that only answers: its cheapest form that computes the same function."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.networks.backbone import Backbone

# On a CPU the maps of so many images stay in its caches: a third faster than a batch of 128.
_PART = 32
# Compiled, where ReLU and shortcut are joined to what comes before, more of them do.
_COMPILED_PART = 64
# Kernels go by the number of images. With multiples of this, an image's logits do not depend on
# the other images of its batch, to the bit (measured on x86, where vectors have 16 floats).
_GRANULE = 16

_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class FrozenNetwork:
    """A network in eval mode without gradients, every BatchNorm that allows it folded away.

    Folding scales a convolution's weights by what the BatchNorm after it would do to its output.
    Where what a network does cannot be traced, it runs as it is.

    Args:
        network: on its device; it is put into eval mode and left as it is otherwise.
        compiled: compile it; every batch then has one size on a CPU.
    """

    def __init__(self, network: Backbone, compiled: bool = False) -> None:
        network.eval().requires_grad_(False)
        folded: nn.Module = network
        if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
            try:
                folded = _folded(network).eval()
            except Exception:  # what tracing meets in the code of other libraries
                folded = network
        self.folded = folded.to(memory_format=torch.channels_last)
        self.part, self.granule = _PART, _GRANULE
        if compiled:
            self.folded.compile(dynamic=False)
            self.part = self.granule = _COMPILED_PART

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to logits ``[B, K]``."""
        if images.device.type != "cpu":
            logits: Tensor = self.folded(images)
            return logits
        return torch.cat([self._answer(part) for part in torch.split(images, self.part)])

    def _answer(self, part: Tensor) -> Tensor:
        count = len(part)
        missing = -count % self.granule
        if missing:
            part = torch.cat([part, part[:1].expand(missing, -1, -1, -1)])
            part = part.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.folded(part)
        return logits[:count]


class _Tracer(fx.Tracer):
    """Sees timm's convolutions and BatchNorms as wholes, as it does torch's own.

    Others that inherit from these may do something else to their weights.
    """

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return type(module) in (*_CONVOLUTIONS, *_NORMS) or super().is_leaf_module(module, name)


def _folded(network: Backbone) -> fx.GraphModule:
    """What a network does, as a graph of modules, of which it shares those that stay."""
    graph = _Tracer().trace(network)
    # By name in a dictionary: a child may be called as one of the network's methods is.
    named: dict[str, Any] = dict(network.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        norm: Any = named.get(str(node.target)) if node.op == "call_module" else None
        before = node.args[0] if type(norm) in _NORMS else None
        if before is None or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution = named[before.target]
        if type(convolution) in _CONVOLUTIONS and calls[node.target] == calls[before.target] == 1:
            named[before.target] = fuse_conv_bn_eval(convolution, norm)
            rest = [norm.drop, norm.act] if isinstance(norm, BatchNormAct2d) else []
            named[node.target] = nn.Sequential(*rest)
    named |= dict(network.named_parameters())
    named |= dict(network.named_buffers())
    used = {str(node.target) for node in graph.nodes if node.op in {"call_module", "get_attr"}}
    return fx.GraphModule({name: named[name] for name in used}, graph)
