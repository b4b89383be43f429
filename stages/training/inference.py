"""Run a frozen network in its fastest form."""

from collections import Counter
from contextlib import suppress
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.networks.backbone import Backbone

# Feature maps of this many images fit a CPU's caches: a third faster than batches of 128.
_PART = 32
# Compiled networks fuse ReLU and shortcut into the layer before, so larger parts fit.
_COMPILED_PART = 64
# The batch size selects kernels. In multiples of this, an image's logits are the same to the bit
# whatever the other images (measured on x86, where vectors have 16 floats).
_GRANULE = 16

_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class FrozenNetwork:
    """A network in eval mode without gradients, its BatchNorms folded into convolutions.

    A network that cannot be traced runs unfolded. Compiled, all batches on a CPU have one size.
    """

    def __init__(self, network: Backbone, compiled: bool = False) -> None:
        network.eval().requires_grad_(False)
        folded: nn.Module = network
        if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
            with suppress(Exception):  # other libraries' code makes tracing fail in many ways
                folded = _folded(network).eval()
        self.folded = folded.to(memory_format=torch.channels_last)
        self.part, self.granule = _PART, _GRANULE
        if compiled:
            self.folded.compile(dynamic=False)
            self.part = self.granule = _COMPILED_PART

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Map images ``[B, 3, H, W]`` to logits ``[B, K]``."""
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
    """Treats timm's convolutions and BatchNorms as leaves, like torch's.

    Other subclasses are traced, as they may transform their weights.
    """

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return type(module) in (*_CONVOLUTIONS, *_NORMS) or super().is_leaf_module(module, name)


@torch.no_grad()
def _folded(network: Backbone) -> fx.GraphModule:
    """Trace a network and fold its BatchNorms; unfolded modules are shared with the network."""
    graph = _Tracer().trace(network)
    # A dictionary, because a child may have the name of one of the network's methods.
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
