"""A network that only answers: its cheapest form that computes the same function."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from models.networks.backbone import Backbone

# On a CPU the maps of so many images stay in its caches: a third faster than a batch of 128.
_PART = 32
# Compiled, where ReLU and shortcut are joined to what comes before, more of them do.
_COMPILED_PART = 64
# Kernels go by the number of images. With multiples of this, an image's logits do not depend on
# the other images of its batch, to the bit (measured on x86, where vectors have 16 floats).
_GRANULE = 16


class FrozenNetwork:
    """A network in eval mode without gradients, every BatchNorm that allows it folded away.

    Folding scales a convolution's weights by what the BatchNorm after it would do to its output.

    Args:
        network: on its device; it is put into eval mode and left as it is otherwise.
        compiled: compile it; every batch then has one size on a CPU.

    Attributes:
        not_folded: why it runs as it is, where what it does cannot be traced; None otherwise.
    """

    def __init__(self, network: Backbone, compiled: bool = False) -> None:
        network.eval().requires_grad_(False)
        self.not_folded: str | None = None
        folded: nn.Module = network
        if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
            try:
                folded = fuse(_traced(network).eval())
            except Exception as error:  # what tracing meets in the code of other libraries
                self.not_folded = " ".join(str(error).split())
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


def _traced(network: Backbone) -> fx.GraphModule:
    """What a network does, as a graph of the modules that it shares with it."""
    graph = fx.Tracer().trace(network)
    # By name in a dictionary: a child may be called as one of the network's methods is.
    named = dict(network.named_modules()) | dict(network.named_parameters())
    named |= dict(network.named_buffers())
    used = {str(node.target) for node in graph.nodes if node.op in {"call_module", "get_attr"}}
    return fx.GraphModule({name: named[name] for name in used}, graph)
