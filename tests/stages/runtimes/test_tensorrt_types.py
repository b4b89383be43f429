"""The stand-in for TensorRT against the oldest and the newest supported bindings.

The bindings' wheels only have the compiled module. Three libraries with empty functions for its
external symbols let Python load it, so names, parameters and enumerations are real. Neither a GPU
nor TensorRT's libraries are needed.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from stages.runtimes.tensorrt_runtime import TensorRtRuntime
from tests.once import once
from tests.packages import pip, run_or_skip

# JetPack 6 has the oldest.
BINDINGS = {"10.3": "tensorrt-cu12-bindings==10.3.*", "11.4": "tensorrt-cu13-bindings==11.4.*"}
FOREIGN_SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "initLibNvInferPlugins"),
    *("createInferRuntime_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getPluginRegistry"),
    *("createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion"),
)
# Compares each public name of the stand-in, each parameter of its methods (with the signatures in
# the bindings' docstrings) and the value of each member of an enumeration.
COMPARE = """
import enum, importlib.util, inspect, tensorrt as real
spec = importlib.util.spec_from_file_location("stand_in", {stand_in!r})
ours = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ours)
for name, kind in vars(ours).items():
    if name[0] == "_" or kind.__class__.__name__ == "module":
        continue
    theirs, count = getattr(real, name), 0
    if isinstance(kind, enum.EnumMeta):
        assert {{m.name: int(getattr(theirs, m.name)) for m in kind}} == kind.__members__, name
        continue
    for method in {{*vars(kind), *vars(kind).get("__annotations__", ())}}:
        if method[0] == "_" or kind is tuple or method == "error":
            continue
        found = getattr(theirs, method)
        if not isinstance(member := getattr(kind, method, None), type) and callable(member):
            for parameter in [*inspect.signature(member).parameters][1:]:
                assert f"{{parameter}}:" in found.__doc__, (name, method, parameter)
assert real.Dims([-1, 32, 32, 3])[:] == (-1, 32, 32, 3)
print(real.__version__)
"""


def load_bindings(version: str, folder: Path) -> None:
    """Create ``folder/site`` with ``tensorrt``; skip the test without package or compiler."""
    requirement = BINDINGS[version]
    pip("download", requirement, "--dest", str(folder / "wheel"), what=requirement)
    (wheel,) = (folder / "wheel").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    package = folder / "site/tensorrt"
    package.parent.mkdir()
    (folder / "wheel/tensorrt_bindings").rename(package)
    source = folder / "foreign.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FOREIGN_SYMBOLS))
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        file = f"lib{library}.so.{version.partition('.')[0]}"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{file}"]
        # Beside the module, where it looks first.
        run_or_skip([*command, "-o", str(package / file), str(source)], "a library of no content")


@pytest.mark.parametrize("version", BINDINGS)
def test_the_stand_in_has_the_bindings_names(version, monkeypatch):
    folder = once(f"tensorrt-{version}", lambda folder: load_bindings(version, folder))
    path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("STAND_IN_TENSORRT", version)
    program = COMPARE.format(stand_in=str(Path(__file__).with_name("stand_in") / "tensorrt.py"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # The real module gets a null pointer for its builder, as with a driver that is too old.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    assert TensorRtRuntime().unavailable() == (
        "TensorRT does not start: its process ended with status 1:"
        f" TensorRT {done.stdout.strip()} does not work with this GPU or its driver"
    )
