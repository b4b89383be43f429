"""Checkpoints from which an interrupted training resumes.

Each belongs to a fingerprint of all that determines the result, so a training never resumes from
other settings, data or code.
"""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from stages.checkpoints.durable import (
    DamagedFileError,
    durable_file,
    hold,
    open_sealed,
    release,
    seal,
)
from stages.files import json_sha256, sha256

_SUFFIX = ".checkpoint"
_KEPT = 2
# These modules do not affect what a training computes.
_PLUMBING = {"stages.entry", "stages.progress", "stages.display", "stages.launch"}


def fingerprint(stage: str, settings: Mapping[str, Any], data: Path) -> str:
    """Return the sha256 of everything that determines a training's result.

    That is the stage, its settings, the data set's manifest, torch's version, and the code of every
    module of ``models`` and ``stages`` imported so far.
    """
    content = {
        "stage": stage,
        "settings": settings,
        "data": sha256(data / "manifest.json"),
        "torch": torch.__version__,
        "code": {name: sha256(path) for name, path in _imported_code()},
    }
    return json_sha256(content)


def _imported_code() -> Iterator[tuple[str, Path]]:
    for module in list(sys.modules.values()):
        # The spec has the true name of the running stage, which is otherwise __main__.
        spec = getattr(module, "__spec__", None)
        if spec is None or spec.origin is None or spec.name in _PLUMBING:
            continue
        if spec.name.partition(".")[0] in {"models", "stages"}:
            yield spec.name, Path(spec.origin)


class Checkpoints:
    """The checkpoints of one training; the last two are kept.

    The first use holds the folder (see ``durable.py``). Checkpoints never stop a training: a
    failure to write is reported, and the older ones stay. ``root`` is by default ACKD_CHECKPOINTS,
    or ``.checkpoints``.
    """

    def __init__(self, stage: str, fingerprint: str, root: Path | None = None) -> None:
        self.root = root or Path(os.environ.get("ACKD_CHECKPOINTS") or ".checkpoints")
        self.folder = self.root / stage / fingerprint
        self._identity = f"{stage} {fingerprint}"
        self._failing = False

    def load(self) -> dict[str, Any] | None:
        """Load the last saved state to the CPU; None if there is none.

        A damaged checkpoint is reported and removed, and the one before it is used.
        """
        hold(self.folder)
        for path in reversed(self._paths()):
            try:
                content = open_sealed(path, self._identity)
            except DamagedFileError:
                print(f"{path}: damaged; resuming from an older one, if any", flush=True)
                # Left there, it would count as one of the last two.
                with contextlib.suppress(OSError):
                    path.unlink()
            except OSError as error:
                print(f"{path}: not readable ({error.strerror}); trying an older one", flush=True)
            else:
                state: dict[str, Any] = torch.load(
                    io.BytesIO(content), map_location="cpu", weights_only=True
                )
                return state
        return None

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a state of dicts, lists, tensors, numbers and strings, and remove old ones."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        older = self._paths()
        number = int(older[-1].stem) + 1 if older else 0
        path = self.folder / f"{number:08d}{_SUFFIX}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            hold(self.folder)
            with durable_file(path) as handle:
                handle.write(seal(self._identity, content))
                handle.write(content)
            for old in older[: 1 - _KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            # Report a failure once, not after every epoch.
            if not self._failing:
                print(
                    f"{path}: could not be written ({error.strerror}); training continues, but an"
                    f" interruption would resume from {older[-1].name if older else 'the start'}",
                    flush=True,
                )
            self._failing = True
        else:
            self._failing = False

    def clear(self) -> None:
        """Remove the checkpoints of a finished training."""
        release(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        for parent in (self.folder.parent, self.root):
            with contextlib.suppress(OSError):  # not empty
                parent.rmdir()

    def _paths(self) -> list[Path]:
        """List the checkpoints, oldest first."""
        return sorted(self.folder.glob(f"[0-9]*{_SUFFIX}"))
