"""The teacher's logits, kept from one run to the next.

The feed gives every sample of an epoch as a pure function of the data seed, so what a frozen
teacher says of an epoch is worth keeping: whoever trains with the same teacher, images and
augmentation reads it instead of running the teacher.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import InputError
from stages.checkpoints.durable import (
    SEAL_BYTES,
    DamagedFileError,
    Hold,
    durable_file,
    hold,
    open_sealed,
    seal,
)
from stages.files import json_sha256

_PLACE, _BOUND = "ACKD_LOGITS", "ACKD_LOGITS_MAX_GB"
_DEFAULT_GB = "10"
_BYTES_PER_LOGIT = 2


def round_logits(logits: Tensor) -> Tensor:
    """Logits as they are stored, in float16.

    Every use of a teacher's logits rounds them so, stored or not: a student's weights are then the
    same whether they were computed now or read.

    Raises:
        InputError: a logit is not finite, or beyond the 65504 that float16 reaches.
    """
    rounded = logits.to(torch.float16)
    if not bool(rounded.isfinite().all()):
        largest = float(logits.detach().abs().max())
        raise InputError(
            f"the teacher gives a logit of size {largest:.6g}, expected finite ones up to 65504;"
            " train the teacher again with a smaller learning_rate, or take another checkpoint"
        )
    return rounded


class LogitsStore:
    """The logits of one teacher on one augmented data set, a file an epoch.

    A file holds its seal (see ``durable.py``) and ``[N, K]`` float16 in the order of
    the samples' indices, nothing else. It is sealed with the key, the epoch and the shape, so that
    a file from elsewhere is as little taken for one's own as a damaged one.

    Several runs may share a store; each holds what it uses (see ``durable.py``). It
    never stops a training: what cannot be read is computed, and what cannot be written is said once
    and left.

    Args:
        key: all that the logits depend on, JSON-able.
        samples: N, the training images.
        classes: K.
        root: the folder of all keys; by default the environment variable ACKD_LOGITS, or
            ``ackd/logits`` in the user's cache.
        max_bytes: what all keys together may take; by default ACKD_LOGITS_MAX_GB, or 10 GB
            (GB = 10^9 bytes). With 0 nothing is written.

    Raises:
        InputError: an environment variable cannot be understood, or no place is known.
    """

    def __init__(
        self,
        key: Mapping[str, Any],
        samples: int,
        classes: int,
        *,
        root: Path | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self.shape = (samples, classes)
        self.root = _root() if root is None else root
        self.max_bytes = _bound() if max_bytes is None else max_bytes
        self.name = json_sha256(key)
        self.folder = self.root / self.name
        self._key_content = (json.dumps(key, sort_keys=True, indent=2) + "\n").encode()
        self._writing = self.max_bytes > 0
        self._held: Hold | None = None

    def read(self, epoch: int) -> Tensor | None:
        """The logits of an epoch, ``[N, K]`` float16, memory-mapped; None where they are not there.

        Files that are damaged or not of this key are named in one line.
        """
        self._hold()
        path = self._path(epoch)
        try:
            content = open_sealed(path, self._identity(epoch))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DamagedFileError:
            print(f"{path}: damaged, or of another teacher; computed again", flush=True)
            return None
        except OSError as error:
            print(f"{path}: not readable ({error.strerror}); computed again", flush=True)
            return None
        return torch.frombuffer(content, dtype=torch.float16).view(self.shape)

    def write(self, epoch: int, logits: Tensor) -> None:
        """Keep the logits of an epoch, ``[N, K]`` float16, on any device.

        Where that is not possible it is said in one line, and nothing more is written.
        """
        if not self._writing:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._hold()
            if not (self.folder / "key.json").exists():
                self._write_file(self.folder / "key.json", self._key_content)
            content = logits.cpu().contiguous().numpy().data.cast("B")
            self._write_file(self._path(epoch), seal(self._identity(epoch), content), content)
        except _BoundReachedError:
            self._stop(
                f"{self.max_bytes / 1e9:g} GB are reached; remove folders there that are no longer"
                f" needed, or set {_BOUND} higher"
            )
        except OSError as error:
            self._stop(f"{error.strerror}; make room there, or set {_PLACE} to another folder")

    def describe(self, epochs: int) -> str:
        """One line: how many of ``epochs`` epochs are there, by name and size, and where."""
        paths = map(self._path, range(epochs))
        present = sum(_file_size(path) == self._file_bytes for path in paths)
        line = f"teacher logits: {present} of {epochs} epochs are in {self.folder}"
        if present == epochs or self.max_bytes > 0:
            return line
        return f"{line}; no more are written, because {_BOUND} is 0"

    @property
    def _file_bytes(self) -> int:
        return SEAL_BYTES + math.prod(self.shape) * _BYTES_PER_LOGIT

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:05d}.logits"

    def _identity(self, epoch: int) -> str:
        # The processor's order of bytes, for a store that different machines share.
        return f"{self.name} {epoch} {self.shape} {sys.byteorder}"

    def _hold(self) -> None:
        if self._held is None:
            self._held = hold(self.folder)

    def _used(self) -> int:
        return sum(_file_size(path) for path in self.root.glob("*/*"))

    def _write_file(self, path: Path, *parts: bytes | memoryview) -> None:
        replaced = _file_size(path)
        with durable_file(path) as handle:
            # It shows its full size first, and is then counted: of several who write at once, each
            # sees what the others will take, so that together they stay within the bound.
            handle.truncate(sum(len(part) for part in parts))
            if self._used() - replaced > self.max_bytes:
                raise _BoundReachedError
            for part in parts:
                handle.write(part)

    def _stop(self, reason: str) -> None:
        self._writing = False
        print(f"teacher logits: no more are kept in {self.root}: {reason}", flush=True)


class _BoundReachedError(Exception):
    pass


def _file_size(path: Path) -> int:
    """0 where there is no such file, or none any more."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _root() -> Path:
    """The folder of all teachers' logits: ACKD_LOGITS, or ``ackd/logits`` in the user's cache.

    Raises:
        InputError: no place is known.
    """
    if place := os.environ.get(_PLACE):
        return Path(place)
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise InputError(
            f"no home folder is known to keep the teacher's logits in; set {_PLACE} to a folder, or"
            " training.logits_store to false"
        ) from None
    return Path(cache) / "ackd" / "logits"


def _bound() -> int:
    """Bytes that they may take in all: ACKD_LOGITS_MAX_GB, or 10 GB.

    Raises:
        InputError: the variable cannot be understood.
    """
    text = os.environ.get(_BOUND) or _DEFAULT_GB
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise InputError(
            f"{_BOUND} is {text!r}, expected a number of GB, such as 2.5, or 0 to write none"
        )
    return int(gigabytes * 1e9)
