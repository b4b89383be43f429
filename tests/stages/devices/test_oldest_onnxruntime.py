"""The oldest onnxruntime that bundles are made for, the last for Python 3.8, runs every file."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packages import pip
from tests.stages.devices.elsewhere import answers, make_bundle, own_answers, relative_error

VERSION = "1.19.2"
#: Of the largest logit, from what the onnxruntime of the tests answers. Measured with Python 3.8:
#: fp32 and int8_u8s8 0, fp16 2e-7, int8_s8s8 2e-3.
LIMITS = {"fp32": 1e-6, "fp16": 1e-5, "int8_u8s8": 0.01, "int8_s8s8": 0.01}
# The last numpy of each Python for which this onnxruntime was built.
NUMPY = {"3.8": "1.24.4", "3.9": "2.0.2", "3.10": "2.2.6", "3.11": "2.2.6", "3.12": "2.2.6"}


def oldest_python() -> tuple[str, str]:
    """Version and path of the oldest one that is found; skips where there is none to use."""
    # pyenv keeps those that are not in use out of PATH.
    unused = sorted((Path.home() / ".pyenv/versions").glob("*/bin"))
    for version in NUMPY:
        for folder in [*os.environ["PATH"].split(os.pathsep), *map(str, unused)]:
            found = shutil.which(f"python{version}", path=folder)
            if found and (python := _itself(found, version)):
                return version, python
    pytest.skip(f"onnxruntime {VERSION} needs a Python from {' or '.join(NUMPY)}")


def _itself(python: str, version: str) -> str | None:
    """Its own path, as ``python`` may be pyenv's placeholder; None where it does not start."""
    asked = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    found, _, path = said.stdout.strip().partition(" ")
    return path if said.returncode == 0 and found == version else None


def test_it_runs_every_file(tiny_exported: Path, tmp_path: Path) -> None:
    version, python = oldest_python()
    packages = tmp_path / "packages"
    pip(
        *("install", "--target", str(packages), "--python-version", version),
        *(f"onnxruntime=={VERSION}", f"numpy=={NUMPY[version]}"),
        what=f"onnxruntime {VERSION} for Python {version}",
    )
    bundle = make_bundle(tiny_exported, tmp_path / "bundle")
    lines, logits = answers(bundle, [python], {"PYTHONPATH": str(packages)})
    assert lines[0].split()[1].startswith(f"{version}.")
    assert lines[1].endswith(f", 8 golden images, onnxruntime {VERSION}")
    assert lines[-1] == "passed"
    assert len(logits) == 8
    own = own_answers(bundle).logits
    for name, found in logits.items():
        assert relative_error(found, own[name]) <= LIMITS[name.split(".")[0]], name
