"""Where an interrupted training goes on from.

A checkpoint belongs to a fingerprint of all that decides the result, so that one of an older
setting, of other data or of changed code is never taken up.
"""

from __future__ import annotations

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
    Hold,
    durable_file,
    hold,
    open_sealed,
    seal,
)
from stages.files import json_sha256, sha256

_SUFFIX = ".checkpoint"
_KEPT = 2
# They start, show and save a training; what it computes does not depend on them.
_PLUMBING = {"stages.entry", "stages.progress", "stages.display", "stages.launch"}


def fingerprint(stage: str, settings: Mapping[str, Any], data: Path) -> str:
    """The sha256 of what decides a training's result.

    That is the stage, its settings, its data set by the manifest, torch's version, and the code:
    every module of ``models`` and ``stages`` that is imported by now.
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
        # By its spec: the stage that runs is called __main__ otherwise.
        spec = getattr(module, "__spec__", None)
        if spec is None or spec.origin is None or spec.name in _PLUMBING:
            continue
        if spec.name.partition(".")[0] in {"models", "stages"}:
            yield spec.name, Path(spec.origin)


class Checkpoints:
    """The checkpoints of one training; the last two are kept.

    From the first one on, the folder is held (see ``durable.py``). They never stop a
    training: what cannot be written is said, and the older ones stay.

    Args:
        root: by default the environment variable ACKD_CHECKPOINTS, or ``.checkpoints`` here.
    """

    def __init__(self, stage: str, fingerprint: str, root: Path | None = None) -> None:
        self.root = root or Path(os.environ.get("ACKD_CHECKPOINTS") or ".checkpoints")
        self.folder = self.root / stage / fingerprint
        self._identity = f"{stage} {fingerprint}"
        self._failing = False
        self._held: Hold | None = None

    def load(self) -> dict[str, Any] | None:
        """The last state that was saved, on the CPU; None where there is none.

        A damaged checkpoint is named in one line and removed, and the one before it is used.
        """
        self._hold()
        for path in reversed(self._paths()):
            try:
                content = open_sealed(path, self._identity)
            except DamagedFileError:
                print(f"{path}: damaged; going on from an older one, if there is one", flush=True)
                # It would count as one of the last two.
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
        """Write a state of dicts, lists, tensors, numbers and strings; older ones then go."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        older = self._paths()
        number = int(older[-1].stem) + 1 if older else 0
        path = self.folder / f"{number:08d}{_SUFFIX}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._hold()
            with durable_file(path) as handle:
                handle.write(seal(self._identity, content))
                handle.write(content)
            for old in older[: 1 - _KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            # Said once, not after every epoch.
            if not self._failing:
                print(
                    f"{path}: not written ({error.strerror}); training goes on, and would resume"
                    f" from {older[-1].name if older else 'its beginning'}",
                    flush=True,
                )
            self._failing = True
        else:
            self._failing = False

    def clear(self) -> None:
        """Remove the checkpoints, which a finished training needs no longer."""
        if self._held is not None:
            self._held.close()
            self._held = None
        shutil.rmtree(self.folder, ignore_errors=True)
        for parent in (self.folder.parent, self.root):
            with contextlib.suppress(OSError):  # others are in it
                parent.rmdir()

    def _hold(self) -> None:
        if self._held is None:
            self._held = hold(self.folder)

    def _paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.folder.glob(f"[0-9]*{_SUFFIX}"))
