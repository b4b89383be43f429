"""What a bundle's models answer in another Python, for another processor or by another version."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.devices.programs import RUNNER, single_file
from tests.bundles import seal

_PROGRAM = Path(__file__).with_name("check_and_answer.py")


class Answers(NamedTuple):
    """The lines that the check printed, and by file the logits ``[G, K]`` on the golden batch."""

    lines: list[str]
    logits: dict[str, npt.NDArray[np.float32]]


def make_bundle(exported: Path, folder: Path) -> Path:
    """The exports beside the runner, as they travel."""
    shutil.copytree(exported / "artifacts/onnx", folder)
    (folder / "runner.py").write_bytes(single_file(RUNNER))
    return seal(folder)


def answers(bundle: Path, python: list[str], env: dict[str, str]) -> Answers:
    """Those of the bundle's runner in another Python."""
    file = bundle.parent / "answers.npz"
    finished = subprocess.run(
        [*python, "-B", str(_PROGRAM), str(bundle), str(file)],
        cwd="/",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    with np.load(file) as logits:
        return Answers(finished.stdout.splitlines(), dict(logits))


def own_answers(bundle: Path) -> Answers:
    """Those of this machine, by the onnxruntime that the project is tested with."""
    return answers(bundle, [sys.executable], {})


def relative_error(ours: Any, theirs: Any) -> float:
    """``max|a-b| / max|b|``."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
