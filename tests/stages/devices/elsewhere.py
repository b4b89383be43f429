"""Runs a bundle's models in another Python, for another processor or version."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from stages.devices.programs import RUNNER, single_file
from tests.bundles import seal

#: The oldest supported onnxruntime, which is the last for Python 3.8.
OLDEST = "1.19.2"
# The last numpy built for each Python.
NUMPY = {"3.8": "1.24.4", "3.9": "2.0.2", "3.10": "2.2.6", "3.11": "2.2.6", "3.12": "2.2.6"}
_PROGRAM = Path(__file__).with_name("check_and_answer.py")


class Answers(NamedTuple):
    """The output of the check, and the logits ``[G, K]`` on the golden batch by file."""

    lines: list[str]
    logits: dict[str, npt.NDArray[np.float32]]


def make_bundle(exported: Path, folder: Path) -> Path:
    """Put the exports beside the runner, like in a bundle."""
    shutil.copytree(exported / "artifacts/onnx", folder)
    (folder / "runner.py").write_bytes(single_file(RUNNER))
    return seal(folder)


def answers(bundle: Path, python: list[str], env: dict[str, str]) -> Answers:
    """Run the bundle's runner in another Python."""
    file = bundle.parent / "answers.npz"
    command = [*python, "-B", str(_PROGRAM), str(bundle), str(file)]
    finished = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    with np.load(file) as logits:
        return Answers(finished.stdout.splitlines(), dict(logits))


def relative_error(ours: Any, theirs: Any) -> float:
    """Compute ``max|a-b| / max|b|``."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def oldest_python() -> tuple[str, str]:
    """Return version and path of the oldest usable Python; skip the test if there is none."""
    # pyenv keeps inactive Pythons out of PATH.
    unused = sorted((Path.home() / ".pyenv/versions").glob("*/bin"))
    for version in NUMPY:
        for folder in [*os.environ["PATH"].split(os.pathsep), *map(str, unused)]:
            found = shutil.which(f"python{version}", path=folder)
            if found and (python := _itself(found, version)):
                return version, python
    pytest.skip(f"onnxruntime {OLDEST} needs a Python from {' or '.join(NUMPY)}")


def _itself(python: str, version: str) -> str | None:
    """Return a Python's real path behind pyenv's shims; None if it does not start."""
    asked = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"]
    done = subprocess.run(asked, capture_output=True, text=True)
    found, _, path = done.stdout.strip().partition(" ")
    return path if done.returncode == 0 and found == version else None
