"""Store the teacher's logits from one run to the next.

Each sample of an epoch is a pure function of the data seed, so a frozen teacher's logits are too:
later runs with the same teacher, images and augmentation read them instead of running the teacher.
"""

import importlib.metadata
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
    durable_file,
    hold,
    open_sealed,
    seal,
)
from stages.files import json_sha256, sha256

_PLACE, _BOUND = "ACKD_LOGITS", "ACKD_LOGITS_MAX_GB"
_DEFAULT_GB = "10"
# All of it, imported or not, because students of other networks share the logits.
_CODE = ("stages/data/feed/*.py", "models/networks/*.py", "stages/training/inference.py")
_LIBRARIES = ("timm", "torchvision")


def made_by(root: Path = Path(__file__).parents[2]) -> dict[str, Any]:
    """Return what identifies the code that makes images and their logits, for a store's key."""
    paths = sorted(path for pattern in _CODE for path in root.glob(pattern))
    return {
        "code_sha256": json_sha256({str(path.relative_to(root)): sha256(path) for path in paths}),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def round_logits(logits: Tensor) -> Tensor:
    """Round logits to float16, as they are stored.

    Every use of a teacher's logits rounds them, stored or not, so the student's weights do not
    depend on whether they were computed or read.

    Raises:
        InputError: a logit is not finite, or exceeds 65504, the maximum of float16.
    """
    rounded = logits.to(torch.float16)
    if not bool(rounded.isfinite().all()):
        largest = float(logits.detach().abs().max())
        raise InputError(
            f"the teacher's largest logit is {largest:.6g}, expected at most 65504;"
            " train the teacher again with a smaller learning_rate, or use another checkpoint"
        )
    return rounded


class LogitsStore:
    """The logits of one teacher on one augmented data set, one file per epoch.

    A file holds its seal (see ``durable.py``) and ``[N, K]`` float16 in the order of the samples'
    indices. The seal covers key, epoch and shape, so files of other stores are rejected like
    damaged ones.

    Several runs may share a store; each holds the folder it uses (see ``durable.py``). The store
    never stops a training: unreadable logits are computed, and a failure to write is reported once.

    Args:
        key: everything that the logits depend on; must be JSON-serializable.
        samples: N, the training images.
        classes: K.
        root: of all keys; by default ACKD_LOGITS, or ``ackd/logits`` in the user's cache.
        max_bytes: of all keys; by default ACKD_LOGITS_MAX_GB or 10 GB. With 0, nothing is written.

    Raises:
        InputError: an environment variable is invalid, or the home folder is unknown.
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

    def read(self, epoch: int) -> Tensor | None:
        """Read an epoch's logits ``[N, K]`` float16, memory-mapped; None if they are not stored.

        Reports files that are damaged or belong to another key.
        """
        hold(self.folder)
        path = self._path(epoch)
        try:
            content = open_sealed(path, self._identity(epoch))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DamagedFileError:
            print(f"{path}: damaged, or from another teacher; computing it again", flush=True)
            return None
        except OSError as error:
            print(f"{path}: not readable ({error.strerror}); computing it again", flush=True)
            return None
        return torch.frombuffer(content, dtype=torch.float16).view(self.shape)

    def write(self, epoch: int, logits: Tensor) -> None:
        """Store an epoch's logits ``[N, K]`` float16, from any device.

        If that fails, reports it in one line and writes nothing more.
        """
        if not self._writing:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            hold(self.folder)
            if not (self.folder / "key.json").exists():
                self._write_file(self.folder / "key.json", self._key_content)
            content = logits.cpu().contiguous().numpy().data.cast("B")
            self._write_file(self._path(epoch), seal(self._identity(epoch), content), content)
        except _BoundReachedError:
            self._stop(
                f"the limit of {self.max_bytes / 1e9:g} GB is reached; remove folders that you no"
                f" longer need, or raise {_BOUND}"
            )
        except OSError as error:
            self._stop(f"{error.strerror}; free some space, or set {_PLACE} to another folder")

    def describe(self, epochs: int) -> str:
        """Return a line that says how many of ``epochs`` epochs are stored, and where."""
        expected = SEAL_BYTES + math.prod(self.shape) * torch.float16.itemsize
        present = sum(_file_size(self._path(epoch)) == expected for epoch in range(epochs))
        line = f"teacher logits: {present} of {epochs} epochs stored in {self.folder}"
        if present == epochs or self.max_bytes > 0:
            return line
        return f"{line}; no more will be stored, because {_BOUND} is 0"

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:05d}.logits"

    def _identity(self, epoch: int) -> str:
        # With the byte order, because different machines may share a store.
        return f"{self.name} {epoch} {self.shape} {sys.byteorder}"

    def _write_file(self, path: Path, *parts: bytes | memoryview) -> None:
        replaced = _file_size(path)
        with durable_file(path) as handle:
            # Reserve the full size before counting, so that concurrent writers count each other's
            # files and stay within the limit together.
            handle.truncate(sum(len(part) for part in parts))
            used = sum(map(_file_size, self.root.glob("*/*")))
            if used - replaced > self.max_bytes:
                raise _BoundReachedError
            for part in parts:
                handle.write(part)

    def _stop(self, reason: str) -> None:
        self._writing = False
        print(f"teacher logits: storing no more in {self.root}: {reason}", flush=True)


class _BoundReachedError(Exception):
    pass


def _file_size(path: Path) -> int:
    """Return the size of a file, or 0 if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _root() -> Path:
    if place := os.environ.get(_PLACE):
        return Path(place)
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise InputError(
            f"the teacher's logits cannot be stored, because the home folder is unknown; set"
            f" {_PLACE} to a folder, or training.logits_store to false"
        ) from None
    return Path(cache) / "ackd" / "logits"


def _bound() -> int:
    """Return the limit in bytes for all teachers' logits."""
    text = os.environ.get(_BOUND) or _DEFAULT_GB
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise InputError(
            f"{_BOUND} is {text!r}, expected a number of GB, such as 2.5, or 0 to store nothing"
        )
    return int(gigabytes * 1e9)
