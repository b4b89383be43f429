"""What takes long to make, made once for all of xdist's workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``name``, which ``make`` filled as its current folder; not to be written to."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(partial)
                make(partial)
            partial.rename(folder)
    return folder
