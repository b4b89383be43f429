"""The TensorRT code, and its stand-in of the other tests, against real bindings, 10.3 to 11.4.

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
STAND_IN = Path(__file__).parent / "stand_in/tensorrt"

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


def test_what_a_version_lacks_is_found(bindings: Bindings, tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "import tensorrt as trt\n"
        "def wrong(builder: trt.Builder, config: trt.IBuilderConfig) -> int:\n"
        "    config.set_flag(trt.BuilderFlag.FP16)\n"
        "    config.max_workspace = 1\n"
        "    return builder.create_network('strongly')\n"
    )
    found = mypy(file, bindings)
    assert ('has no attribute "FP16"' in found) == (bindings.version == "11.4"), found
    assert '"IBuilderConfig" has no attribute "max_workspace"' in found
    assert 'Argument 1 to "create_network" of "Builder" has incompatible type "str"' in found
    assert 'expected "int"' in found


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


# The stand-in, by what its classes have: of each function the names of its parameters.

SURFACE = r"""{
    f"{kind.__name__}.{name}": [*inspect.signature(value).parameters][1:]
    if inspect.isfunction(value) else None
    for kind in vars(trt).values()
    if inspect.isclass(kind) and not issubclass(kind, enum.Enum)
    for name, value in [
        *vars(kind).items(),
        *((own, None) for own in re.findall(r"self\.([a-z]\w*)(?: =|, )", inspect.getsource(kind)))
    ]
    if not inspect.isclass(value) and (name == "__init__" or not name.startswith("_"))
}"""
# What of it the bindings lack: none where Python cannot make an instance.
DRIFT = """[
    key
    for key, names in {}.items()
    for kind, _, name in [key.partition(".")]
    for real in [getattr(getattr(trt, kind, None), name, None)]
    if real is None
    or callable(real) != (names is not None)
    or not (real.__doc__ or "").startswith("Initialize self")
    and not all(f"{{name}}:" in real.__doc__ for name in names or [])
]"""
ENUMERATIONS = """{
    f"{kind.__qualname__}.{member.name}": int(member)
    for kind in [*vars(trt).values(), trt.ILogger.Severity]
    if inspect.isclass(kind) and issubclass(kind, enum.IntEnum)
    for member in kind
}"""


@pytest.fixture
def surface(bindings: Bindings, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str] | None]:
    monkeypatch.setenv("STAND_IN_TENSORRT", ask(bindings.site, "trt.__version__"))
    found: dict[str, list[str] | None] = ask(STAND_IN.parent, SURFACE)
    assert len(found) > 40
    return found


def test_the_stand_in_has_the_names_and_parameters_of_the_bindings(
    bindings: Bindings, surface: dict[str, list[str] | None]
) -> None:
    assert ask(bindings.site, DRIFT.format(surface)) == []


def test_drift_is_found(bindings: Bindings, surface: dict[str, list[str] | None]) -> None:
    assert surface["ICudaEngine.get_tensor_shape"] == ["name"]
    changes = {
        "ICudaEngine.get_tensor_shape": ["tensor"],
        "ICudaEngine.num_tensors": None,
        "IBuilderConfig.profiling_verbosity": [],
        "Builder.__init__": ["log"],
        "Parser.parse_from_file": ["model"],
    }
    assert sorted(ask(bindings.site, DRIFT.format(surface | changes))) == sorted(changes)


@pytest.mark.usefixtures("surface")
def test_the_stand_in_has_the_values_of_the_bindings(bindings: Bindings) -> None:
    ours = ask(STAND_IN.parent, ENUMERATIONS)
    assert len({name.rpartition(".")[0] for name in ours}) == 8
    theirs = f"{{name: int(eval('trt.' + name)) for name in {list(ours)}}}"
    assert ask(bindings.site, theirs) == ours
