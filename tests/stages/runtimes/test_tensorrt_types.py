"""The TensorRT code against real bindings, 10.3 to 11.4.

These need no GPU and none of TensorRT's libraries; see bindings.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from stages.runtimes.tensorrt_runtime import TensorRtRuntime
from tests.once import once
from tests.stages.runtimes.bindings import BINDINGS, ask, environment, load_bindings, make_stubs

REPOSITORY = Path(__file__).parents[3]
ENGINE = REPOSITORY / "stages/runtimes/tensorrt_engine.py"

# Of all that the engine imports, only TensorRT is looked at; `make lint` checks the rest.
MYPY = """
[mypy]
strict = true
follow_imports = skip
warn_unused_ignores = false
[mypy-tensorrt.*]
follow_imports = silent
ignore_errors = true
"""


@dataclass(frozen=True)
class Bindings:
    version: str
    site: Path
    stubs: Path


@pytest.fixture(scope="module", params=BINDINGS)
def bindings(request: pytest.FixtureRequest) -> Bindings:
    def make(folder: Path) -> None:
        make_stubs(load_bindings(request.param, folder), folder / "stubs")

    folder = once(f"tensorrt-{request.param}", make)
    return Bindings(request.param, folder / "site", folder / "stubs")


def mypy(file: Path, bindings: Bindings) -> str:
    """What mypy says; empty where it finds nothing."""
    configuration = bindings.stubs / "mypy.ini"
    configuration.write_text(MYPY)
    command = [sys.executable, "-m", "mypy", "--config-file", str(configuration)]
    process = subprocess.run(
        [*command, "--no-error-summary", "--cache-dir", str(bindings.stubs / "cache"), str(file)],
        cwd=REPOSITORY,
        env=os.environ | {"MYPYPATH": str(bindings.stubs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stderr == ""
    return process.stdout


def test_the_engine_is_typed_against_the_bindings(bindings: Bindings) -> None:
    assert mypy(ENGINE, bindings) == ""


def test_shapes_are_read_as_the_bindings_give_them(bindings: Bindings) -> None:
    assert ask(bindings.site, "trt.Dims([-1, 32, 32, 3])[:]") == [-1, 32, 32, 3]


def test_bindings_that_give_no_builder_are_reported(
    bindings: Bindings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real module gets a null pointer for its builder, as it does where the driver is too old.
    version = ask(bindings.site, "trt.__version__")
    monkeypatch.setenv("PYTHONPATH", environment(bindings.site)["PYTHONPATH"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    assert TensorRtRuntime().unavailable() == (
        "TensorRT does not start: its process ended with status 1:"
        f" TensorRT {version} does not work with this GPU or its driver"
    )
