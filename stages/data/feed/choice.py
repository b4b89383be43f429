"""Choose between training images in memory and streaming them from disk."""

import os
from typing import Literal

import torch

from models.errors import InputError
from stages.data.feed.base import Feed, FeedPlan
from stages.data.feed.memory import MemoryFeed
from stages.data.feed.stream import StreamFeed
from stages.machine import cores, free_memory

_VARIABLE = "ACKD_WORKERS"
_MAX_WORKERS = 8
_SHARE = 0.25  # of free memory; the networks need the rest


def build_feed(plan: FeedPlan, mode: Literal["auto", "memory", "stream"] = "auto") -> Feed:
    """Build the feed; its batches do not depend on ``mode``.

    ``auto`` keeps the images in memory if, padded, they take at most a quarter of what is free on
    the device, and of each local process's part of the free RAM. The first process prints the
    choice.

    Raises:
        InputError: ``ACKD_WORKERS`` is not a number.
    """
    # Set by torchrun and other launchers.
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", plan.processes))
    workers = _wanted_workers(neighbours)
    files = plan.files()
    side = files[0].shape[1] + 2 * plan.augmentation.crop_padding
    needed = sum(map(len, files)) * 3 * side**2
    limit = _SHARE * free_memory() / neighbours
    if plan.device.type == "cuda":
        limit = min(limit, _SHARE * torch.cuda.mem_get_info(plan.device)[0])
    streams = mode == "stream" or (mode == "auto" and needed > limit)
    if plan.process == 0:
        how = f"streamed by {workers} workers" if streams else "kept in memory"
        print(f"feed: training images {how}, {needed / 1e6:.1f} MB ({mode})", flush=True)
    if streams:
        return StreamFeed(plan, workers)
    return MemoryFeed(plan)


def _wanted_workers(neighbours: int) -> int:
    text = os.environ.get(_VARIABLE, "")
    if not text:
        return min(_MAX_WORKERS, max(1, cores() // neighbours))
    if not text.isdecimal():
        raise InputError(
            f"{_VARIABLE} is {text!r}, expected a number of processes, or 0 to read in the training"
            " process"
        )
    return int(text)
