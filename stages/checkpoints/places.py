"""Where trainings keep what outlives them, and how much of it."""

from __future__ import annotations

import math
import os
from pathlib import Path

from models.errors import InputError

_CHECKPOINTS = "ACKD_CHECKPOINTS"
LOGITS, LOGITS_BOUND = "ACKD_LOGITS", "ACKD_LOGITS_MAX_GB"
_DEFAULT_GB = "10"


def checkpoints_root() -> Path:
    """The folder of all checkpoints: ACKD_CHECKPOINTS, or ``.checkpoints`` here."""
    return Path(os.environ.get(_CHECKPOINTS) or ".checkpoints")


def logits_root() -> Path:
    """The folder of all teachers' logits: ACKD_LOGITS, or ``ackd/logits`` in the user's cache.

    Raises:
        InputError: no place is known.
    """
    if place := os.environ.get(LOGITS):
        return Path(place)
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise InputError(
            f"no home folder is known to keep the teacher's logits in; set {LOGITS} to a folder, or"
            " training.logits_store to false"
        ) from None
    return Path(cache) / "ackd" / "logits"


def logits_bound() -> int:
    """Bytes that they may take in all: ACKD_LOGITS_MAX_GB, or 10 GB.

    Raises:
        InputError: the variable cannot be understood.
    """
    text = os.environ.get(LOGITS_BOUND) or _DEFAULT_GB
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise InputError(
            f"{LOGITS_BOUND} is {text!r}, expected a number of GB, such as 2.5, or 0 to write none"
        )
    return int(gigabytes * 1e9)
