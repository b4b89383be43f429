"""What of this machine the chain can use, and what each missing part would be good for."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.upkeep import services
from pipeline.upkeep.services import Finding
from stages.devices.browser import web_runtime
from stages.identify_device import identify
from stages.runtimes.litert_runtime import LiteRtRuntime
from stages.runtimes.tensorrt_runtime import TensorRtRuntime

PACKAGES = ("torch", "torchvision", "datasets", "onnx", "onnxruntime", "dvc", "prefect")
_FEATURES = {
    "vector": ("avx2", "avx512f", "asimd", "neon", "sve"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "DotProd", "I8MM"),
    "half precision": ("avx512_bf16", "avx512_fp16", "amx_bf16", "bf16", "asimdhp", "BF16", "FP16"),
}
_WITHOUT = {
    "vector": "every network is slow",
    "int8": "int8 models run, but may be no quicker than fp32",
    "half precision": "fp16 models run, computed in fp32",
}
_MIN_MEMORY_GB = 4.0
_MIN_DISK_GB = 5.0


def examine() -> list[Finding]:
    """The whole diagnosis, in the order of a table; works in any folder."""
    device = identify()
    here = [*_machine(device), *_accelerators(device), *_packages(), *_programs(), *_project()]
    return [*here, *services.findings(Path())]


def _machine(device: dict[str, Any]) -> Iterator[Finding]:
    yield Finding(
        "Python",
        (3, 11) <= sys.version_info < (3, 14),
        platform.python_version(),
        "the pinned packages need 3.11, 3.12 or 3.13",
    )
    yield Finding("system", True, f"{device['system']}, {device['machine']}", "")
    yield Finding("CPU", True, f"{device['cpu'] or 'unnamed'}, cores: {device['cores']}", "")
    for kind, names in _FEATURES.items():
        present = [name for name in names if name in device["cpu_features"]]
        yield Finding(f"CPU, {kind}", bool(present), " ".join(present) or "none", _WITHOUT[kind])
    memory = device["memory_gb"]
    yield Finding(
        "memory",
        memory is not None and memory >= _MIN_MEMORY_GB,
        "unknown" if memory is None else f"{memory} GB",
        f"large data sets may not fit; {_MIN_MEMORY_GB:g} GB are enough for the presets",
    )
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Finding(
        "disk",
        free >= _MIN_DISK_GB,
        f"{free:.1f} GB free here",
        f"a run on a large data set may fill it; free {_MIN_DISK_GB:g} GB",
    )


def _accelerators(device: dict[str, Any]) -> Iterator[Finding]:
    import onnxruntime
    import torch

    gpu, cuda = device["gpu"], torch.cuda.is_available()
    found = "none" if gpu is None else f"{gpu['name']}, driver {gpu['driver']}"
    without = "training runs on the CPU"
    if gpu is not None and not cuda:
        found += ", which this torch cannot use"
        without += "; install a build of torch for this driver"
    yield Finding("GPU", cuda, found, without)
    for name, runtime, lost in (
        ("TensorRT", TensorRtRuntime(), "its validation is skipped"),
        ("LiteRT", LiteRtRuntime(), "nothing is exported for it"),
    ):
        reason = runtime.unavailable()
        yield Finding(name, reason is None, runtime.version() or "none", f"{lost}: {reason}")
    providers = [
        name.removesuffix("ExecutionProvider")
        for name in onnxruntime.get_available_providers()
        if not name.startswith("Azure")  # the cloud, which is offered everywhere
    ]
    yield Finding("onnxruntime on", bool(providers), ", ".join(providers), "nothing is validated")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name, True, importlib.metadata.version(name), "")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed", "install this project again")
    installed = web_runtime.installed()
    yield Finding(
        web_runtime.PACKAGE,
        installed,
        web_runtime.VERSION if installed else "not installed",
        "nothing is measured in browsers: `ackd probe --install`",
    )


def _programs() -> Iterator[Finding]:
    for name, missing in (
        ("ssh", "no devices at ssh://: install OpenSSH's client"),
        ("adb", "no Android devices at adb:: install Android's platform tools"),
    ):
        program = shutil.which(name)
        yield Finding(name, program is not None, program or "none", missing)


def _project() -> Iterator[Finding]:
    git = shutil.which("git")
    yield Finding("git", git is not None, git or "none", "no history, no experiments: install git")
    for name, missing in (
        ("dvc.yaml", "this is not the root of a project: nothing runs here"),
        (".git", "results have no history here: `git init`"),
        (".dvc", "the chain does not run here: `dvc init`"),
    ):
        exists = Path(name).exists()
        yield Finding(name, exists, "here" if exists else "not here", missing)
