"""The real Python bindings of TensorRT, loaded without its libraries, and stubs made of them.

The bindings' wheels hold the compiled module alone. Three libraries with its foreign symbols, which
do nothing, let Python load it: names, parameters and enumerations are then the real ones.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.packages import pip, run_or_skip

#: The oldest that is supported, which JetPack 6 has, and the newest.
BINDINGS = {
    "10.3": "tensorrt-cu12-bindings==10.3.*",
    "11.4": "tensorrt-cu13-bindings==11.4.*",
}

_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_FOREIGN_SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


def load_bindings(version: str, folder: Path) -> Path:
    """A folder to import ``tensorrt`` from; skips where package or compiler cannot be had."""
    requirement = BINDINGS[version]
    pip("download", requirement, "--dest", str(folder / "wheel"), what=requirement)
    (wheel,) = (folder / "wheel").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    package = folder / "site/tensorrt"
    package.parent.mkdir()
    (folder / "wheel/tensorrt_bindings").rename(package)
    source = folder / "foreign.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _FOREIGN_SYMBOLS))
    for library in _LIBRARIES:
        file = f"lib{library}.so.{version.partition('.')[0]}"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{file}"]
        # Beside the module, which is where it looks first.
        run_or_skip([*command, "-o", str(package / file), str(source)], "a library of no content")
    return package.parent


def environment(site: Path) -> dict[str, str]:
    """In which ``tensorrt`` is that of ``site``."""
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}


def make_stubs(site: Path, folder: Path) -> Path:
    """A folder of stubs for mypy; skips where their generator is not installed."""
    if importlib.util.find_spec("pybind11_stubgen") is None:
        pytest.skip("pybind11-stubgen is not installed (pip install 'ackd[dev]')")
    subprocess.run(
        [sys.executable, "-m", "pybind11_stubgen", "--output-dir", str(folder), "tensorrt"],
        env=environment(site),
        check=True,
        capture_output=True,
    )
    stub = folder / "tensorrt/tensorrt.pyi"
    lines = stub.read_text(encoding="utf-8").splitlines()
    loosened = []
    while (error := _syntax_error(lines)) is not None:
        # What the generator took from docstrings is not always Python.
        found = re.match(r"(\s*)def (\w+)\(", lines[error])
        assert found, lines[error]
        lines[error] = f"{found[1]}def {found[2]}(*given: typing.Any) -> typing.Any:"
        loosened.append(found[2])
    assert len(loosened) < 10, loosened  # else the stubs say too little
    # The module has a `bool` of its own.
    text = re.sub(r"(-> |: |\[|\| )bool\b", r"\1builtins.bool", "\n".join(lines))
    stub.write_text(text.replace("\nimport ", "\nimport builtins\nimport ", 1), encoding="utf-8")
    return folder


def _syntax_error(lines: list[str]) -> int | None:
    """The position of the first line that Python refuses."""
    try:
        ast.parse("\n".join(lines))
    except SyntaxError as error:
        return (error.lineno or 1) - 1
    return None


def ask(site: Path, expression: str) -> Any:
    """The value of ``expression``, in which ``trt`` are the bindings, in a process of its own."""
    program = f"import json, tensorrt as trt; print(json.dumps({expression}))"
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment(site), check=True, stdout=subprocess.PIPE
    )
    return json.loads(process.stdout)
