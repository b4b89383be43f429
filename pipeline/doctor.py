"""Diagnoses this machine: what the chain can use, and what each missing part prevents."""

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stages.devices.browser import web_runtime
from stages.identify_device import identify
from stages.runtimes.litert_runtime import LiteRtRuntime
from stages.runtimes.tensorrt_runtime import TensorRtRuntime

_MIN_MEMORY_GB = 4.0
_MIN_DISK_GB = 5.0


class Finding(NamedTuple):
    """A line of ``ackd doctor``; ``missing`` states what its absence prevents, and the remedy."""

    what: str
    usable: bool
    found: str
    missing: str


def examine() -> Iterator[Finding]:
    """Yield all findings in the order of the table, in any folder."""
    import onnxruntime
    import torch

    device = identify()
    python = f"Python {platform.python_version()}"
    yield Finding("system", True, f"{device['system']}, {device['machine']}, {python}", "")
    yield Finding("CPU", True, f"{device['cpu'] or 'unnamed'}, cores: {device['cores']}", "")
    memory = device["memory_gb"]
    yield Finding(
        "memory",
        memory is not None and memory >= _MIN_MEMORY_GB,
        "unknown" if memory is None else f"{memory} GB",
        f"large data sets may not fit; {_MIN_MEMORY_GB:g} GB suffice for the presets",
    )
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Finding(
        "disk",
        free >= _MIN_DISK_GB,
        f"{free:.1f} GB free here",
        f"a large data set may fill it; free {_MIN_DISK_GB:g} GB",
    )
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
        if not name.startswith("Azure")  # remote inference, listed everywhere
    ]
    yield Finding("onnxruntime on", bool(providers), ", ".join(providers), "nothing is validated")
    web = web_runtime.VERSION if web_runtime.installed() else None
    for name, place, missing in (
        (web_runtime.PACKAGE, web, "nothing is measured in browsers: `ackd probe --install`"),
        ("ssh", shutil.which("ssh"), "no devices at ssh://: install OpenSSH's client"),
        ("adb", shutil.which("adb"), "no devices at adb:: install Android's platform tools"),
        ("git", shutil.which("git"), "no history, no experiments: install git"),
    ):
        yield Finding(name, place is not None, place or "not found", missing)
