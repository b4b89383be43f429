"""Find the stem and the stages of a network that does not declare them.

The trunk of a network is the chain of modules from the images to the last feature map, in which
each module reads only the output of the previous one. It is found by running the network once and
recording the inputs and outputs of its modules. A stage is a run of modules with one resolution.
"""

from collections.abc import Callable, Collection
from itertools import groupby, pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

_STEM_REDUCTION = 4  # a first run with this reduction contains blocks besides the stem


class Trunk(NamedTuple):
    """Dotted names of the modules of the stem and of each stage, in execution order."""

    stem: tuple[str, ...]
    stages: tuple[tuple[str, ...], ...]


class _Part(NamedTuple):
    name: str
    size: int  # height of the output map
    has_parameters: bool


_Calls: TypeAlias = dict[nn.Module, tuple[Tensor, Tensor]]  # inputs and outputs


@torch.no_grad()
def find_trunk(
    network: nn.Module, run: Callable[[Tensor], object], images: Tensor, head: Collection[str]
) -> Trunk | None:
    """Find the trunk; return None if there is no such chain, or fewer than two resolutions.

    The stem consists of the modules in the first resolution and the pooling after them. If this
    resolution is at most a quarter of the images', the stem is only the first module. Modules
    without parameters that have a resolution of their own belong to the previous stage.

    Args:
        network: the network in eval mode; none of its modules may work in place.
        run: runs the network from the images at least to the last map.
        images: images to run it on, ``[B, 3, H, H]``.
        head: names of children that come after the last map.
    """
    calls: _Calls = {}

    def note(module: nn.Module, entry: tuple[Tensor, ...], result: object) -> None:
        if len(entry) == 1 and isinstance(entry[0], Tensor) and isinstance(result, Tensor):
            calls[module] = entry[0], result

    handles = [module.register_forward_hook(note) for module in network.modules()]
    try:
        run(images)
    finally:
        for handle in handles:
            handle.remove()
    return _grouped(_chain(network, "", images, calls, head)[0], images.shape[2])


def _chain(
    parent: nn.Module, prefix: str, entry: Tensor, calls: _Calls, head: Collection[str] = ()
) -> tuple[list[_Part], Tensor]:
    """Return the chain of children of ``parent``, and the output of the last one.

    A sequence in which the size of the map changes more than once is split into its children.
    """
    parts: list[_Part] = []
    names = {child: name for name, child in parent.named_children()}
    for module, (given, result) in calls.items():  # in the order of execution
        if (name := names.get(module)) is None:
            continue
        if name in head or given is not entry:
            break
        if result.ndim != 4 or result.shape[2] != result.shape[3]:
            break
        inner: list[_Part] = []
        if type(module).forward is nn.Sequential.forward:
            inner, last = _chain(module, f"{prefix}{name}.", entry, calls)
            inner = inner if last is result else []
        sizes = [entry.shape[2], *(part.size for part in inner)]
        if sum(a != b for a, b in pairwise(sizes)) > 1:
            parts += inner
        else:
            has_parameters = next(module.parameters(), None) is not None
            parts.append(_Part(prefix + name, result.shape[2], has_parameters))
        entry = result
    return parts, entry


def _grouped(parts: list[_Part], image_size: int) -> Trunk | None:
    runs = [list(run) for _, run in groupby(parts, key=lambda part: part.size)]
    if not runs:
        return None
    stem, *stages = runs
    if stem[0].size * _STEM_REDUCTION <= image_size and len(stem) > 1:
        stem, stages = stem[:1], [stem[1:], *stages]
    while stages and not stages[0][0].has_parameters:
        stem.append(stages[0].pop(0))
        stages = [stage for stage in stages if stage]
    for index in range(len(stages) - 1, 0, -1):
        if not any(part.has_parameters for part in stages[index]):
            stages[index - 1] += stages.pop(index)
    if len(stages) < 2:
        return None
    names = [tuple(part.name for part in run) for run in (stem, *stages)]
    return Trunk(names[0], tuple(names[1:]))
