import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from stages import identify_device
from stages.params import Params
from tests.stages.conftest import imported_by


def command(folder: Path, name: str, output: str, status: int = 0) -> None:
    """Write an executable that prints ``output``."""
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {status}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder that is first in PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_the_report_is_true(here):
    identify_device.main(Params())
    device = json.loads(identify_device.REPORT.read_bytes())
    assert device["runtimes"]["onnxruntime"] == version("onnxruntime")
    assert device["runtimes"]["torch"] == version("torch")
    assert device["python"] == platform.python_version()
    assert device["cores"] == os.cpu_count()
    assert device["memory_gb"] > 0


def test_no_runtime_is_imported(tmp_path):
    (tmp_path / "params.yaml").write_text("{}\n")
    names = ("torch", "numpy", "onnx", "onnxruntime", "rich")
    assert imported_by("identify_device", tmp_path, *names) == "[]\n"
    assert (tmp_path / "reports/device.json").is_file()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\n"
            "flags\t\t: fpu avx2 sse4_2 avx512_vnni\n\n"
            "processor\t: 1\nmodel name\t: Another\nflags\t\t: fpu\n",
            ("Some CPU @ 2.0GHz", ["avx2", "avx512_vnni", "sse4_2"]),
        ),
        (
            "processor\t: 0\nFeatures\t: fp asimd evtstrm asimdhp asimddp\n\n"
            "Model\t\t: Some Board Rev 1.4\n",
            ("Some Board Rev 1.4", ["asimd", "asimddp", "asimdhp"]),
        ),
        (None, (None, [])),
    ],
)
def test_the_processor_on_linux(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    assert identify_device.cpu_of_linux(tmp_path / "cpuinfo") == expected


def test_the_processor_of_a_mac(tools):
    name = "machdep.cpu.brand_string: Some M1\nkern.version: a: b"
    features = "hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0"
    command(tools, "sysctl", f"{name}\n{features}")
    assert identify_device.cpu_of_macos() == ("Some M1", ["DotProd"])


@pytest.mark.parametrize(
    ("output", "status", "expected"),
    [
        ("A GPU, 580.1, 16384", 0, {"name": "A GPU", "driver": "580.1", "memory_mb": 16384}),
        ("Orin, 540.4, [N/A]", 0, {"name": "Orin", "driver": "540.4", "memory_mb": None}),
        ("No devices were found", 0, None),
        ("NVIDIA-SMI has failed, a, b", 9, None),
    ],
)
def test_gpu(tools, monkeypatch, output, status, expected):
    command(tools, "nvidia-smi", output, status)
    assert identify_device.gpu() == expected
    monkeypatch.setenv("PATH", "/nowhere")
    assert identify_device.gpu() is None
