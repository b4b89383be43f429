"""The TensorRT code, and its stand-in of the other tests, against real bindings, 10.3 to 11.4.

These need no GPU and none of TensorRT's libraries; see bindings.py.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from stages.runtimes.tensorrt_runtime import TensorRtRuntime
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
def bindings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bindings:
    folder = tmp_path_factory.mktemp(f"tensorrt{request.param}")
    site = load_bindings(request.param, folder)
    return Bindings(request.param, site, make_stubs(site, folder / "stubs"))


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


# The stand-in


def classes(*paths: Path) -> dict[str, ast.ClassDef]:
    """All classes of some files, those inside others too, by qualified name."""
    found = {}

    def collect(nodes: list[ast.stmt], prefix: str) -> None:
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                found[prefix + node.name] = node
                collect(node.body, f"{prefix}{node.name}.")

    for path in paths:
        collect(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found


def parameters(function: ast.FunctionDef) -> tuple[list[str], int]:
    """The names without the first, and how many of them must be given."""
    names = [argument.arg for argument in [*function.args.posonlyargs, *function.args.args]][1:]
    return names, len(names) - len(function.args.defaults)


def is_property(function: ast.FunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def functions(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [
        part
        for part in node.body
        if isinstance(part, ast.FunctionDef)
        and (not part.name.startswith("_") or part.name == "__init__")
    ]


def attributes(node: ast.ClassDef) -> set[str]:
    """Public attributes and enumeration members, and what methods set on ``self``."""
    found = set()
    for part in ast.walk(node):
        targets = part.targets if isinstance(part, ast.Assign) else []
        targets = [part.target] if isinstance(part, ast.AnnAssign) else targets
        for target in [t for t in targets for t in (t.elts if isinstance(t, ast.Tuple) else [t])]:
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                found.add(target.attr)
            if isinstance(target, ast.Name) and part in node.body:
                found.add(target.id)
    return {name for name in found if not name.startswith("_")}


def drift(stand_in: Path, stubs: Path) -> list[str]:
    """Where the stand-in has what the bindings have not."""
    real = classes(stubs / "tensorrt/tensorrt.pyi")
    found = []
    for name, node in classes(*stand_in.glob("*.py")).items():
        if name not in real:
            found.append(name)
            continue
        theirs: dict[str, list[ast.FunctionDef]] = {}
        for function in functions(real[name]):
            theirs.setdefault(function.name, []).append(function)
        for function in functions(node):
            overloads = theirs.get(function.name, [])
            if function.name == "__init__" and not overloads:
                continue  # Python cannot make one
            ours, required = parameters(function)
            fits = [
                theirs_names[: len(ours)] == ours
                and theirs_required <= len(ours)
                and is_property(overload) == is_property(function)
                for overload in overloads
                for theirs_names, theirs_required in [parameters(overload)]
            ]
            if not any(fits):
                found.append(f"{name}.{function.name}({', '.join(ours)}), {required} needed")
        known = attributes(real[name]) | {f.name for f in functions(real[name]) if is_property(f)}
        found += [f"{name}.{attribute}" for attribute in attributes(node) - known]
    return found


def test_the_stand_in_has_the_names_and_parameters_of_the_bindings(bindings: Bindings) -> None:
    assert drift(STAND_IN, bindings.stubs) == []


def test_drift_is_found(bindings: Bindings, tmp_path: Path) -> None:
    changes = {
        "def get_tensor_shape(self, name": "def get_tensor_shape(self, tensor",
        "def num_io_tensors": "def num_tensors",
        "TF32 = 6": "TF64 = 6",
        "class MemoryPoolType": "class MemoryPool",
        "self.profiling_verbosity": "self.verbosity",
    }
    for file in STAND_IN.glob("*.py"):
        source = file.read_text()
        for old in [old for old in changes if old in source]:
            source = source.replace(old, changes.pop(old))
        (tmp_path / file.name).write_text(source)
    assert not changes
    assert sorted(drift(tmp_path, bindings.stubs)) == [
        "BuilderFlag.TF64",
        "IBuilderConfig.verbosity",
        "ICudaEngine.get_tensor_shape(tensor), 1 needed",
        "ICudaEngine.num_tensors(), 0 needed",
        "IExecutionContext.get_tensor_shape(tensor), 1 needed",
        "MemoryPool",
    ]


def test_the_stand_in_has_the_values_of_the_bindings(
    bindings: Bindings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_TENSORRT", ask(bindings.site, "trt.__version__"))
    enumerations = {
        name: attributes(node)
        for name, node in classes(*STAND_IN.glob("*.py")).items()
        if any("IntEnum" in ast.unparse(base) for base in node.bases)
    }
    assert len(enumerations) == 8
    pairs = [f"{name}.{member}" for name, members in enumerations.items() for member in members]
    asked = f"{{{', '.join(f'{pair!r}: int(trt.{pair})' for pair in pairs)}}}"
    assert ask(STAND_IN.parent, asked) == ask(bindings.site, asked)
