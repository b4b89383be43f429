"""What of this machine the chain can use, what shared runs need, and what each missing part means.

Nothing is changed anywhere, and no check takes longer than some seconds.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from models.errors import InputError
from pipeline.dvc_command import dvc
from pipeline.dvc_config import remotes
from pipeline.prefect_server import connect
from stages.devices.browser import web_runtime
from stages.identify_device import identify
from stages.runtimes.litert_runtime import LiteRtRuntime
from stages.runtimes.tensorrt_runtime import TensorRtRuntime

_MIN_MEMORY_GB = 4.0
_MIN_DISK_GB = 5.0
_REMOTE_S = 10.0


class Finding(NamedTuple):
    """A line of ``ackd doctor``; ``missing``: what an absence means, and what to do."""

    what: str
    usable: bool
    found: str
    missing: str


def examine() -> list[Finding]:
    """The whole diagnosis, in the order of a table; works in any folder."""
    device = identify()
    here = [*_machine(device), *_accelerators(device), *_programs()]
    return [*here, *services(Path())]


def services(root: Path) -> Iterator[Finding]:
    """The server and its workers, and in a project its remotes."""
    yield from _server()
    if (root / ".dvc").is_dir():
        yield from _remotes(root)


def _machine(device: dict[str, Any]) -> Iterator[Finding]:
    python = f"Python {platform.python_version()}"
    yield Finding("system", True, f"{device['system']}, {device['machine']}, {python}", "")
    yield Finding("CPU", True, f"{device['cpu'] or 'unnamed'}, cores: {device['cores']}", "")
    features = device["cpu_features"]
    if "sse4_2" in features:  # x86
        exact = any("vnni" in feature for feature in features)
        clips = "onnxruntime clips some sums of int8_u8s8, which then answers less accurately"
        yield Finding("int8 products", exact, f"{'' if exact else 'no '}VNNI", clips)
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


def _programs() -> Iterator[Finding]:
    web = web_runtime.VERSION if web_runtime.installed() else None
    for name, found, missing in (
        (
            web_runtime.PACKAGE,
            web,
            "nothing is measured in browsers: `ackd probe --install`",
        ),
        ("ssh", shutil.which("ssh"), "no devices at ssh://: install OpenSSH's client"),
        (
            "adb",
            shutil.which("adb"),
            "no Android devices at adb:: install Android's platform tools",
        ),
        ("git", shutil.which("git"), "no history, no experiments: install git"),
    ):
        yield Finding(name, found is not None, found or "not here", missing)


def _server() -> Iterator[Finding]:
    import httpx
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.settings import get_current_settings

    what, url = "Prefect server", get_current_settings().api.url
    if not url:
        why = "nothing is scheduled, and each `ackd run` starts a server for itself: `ackd server`"
        yield Finding(what, False, "PREFECT_API_URL is not set", why)
        return
    try:
        with connect() as client:
            yield Finding(what, True, f"{client.api_version()} at {url}", "")
            pools = [pool.name for pool in client.read_work_pools()]
            workers = {pool: client.read_workers_for_work_pool(pool) for pool in pools}
    except (httpx.HTTPError, ValueError) as error:  # an InputError, or what is no API of Prefect
        yield Finding(what, False, str(error), "`ackd run` fails, and so do scheduled runs")
        return
    if not workers:
        why = "nothing that is scheduled would run: `ackd worker`"
        yield Finding("worker", False, "the server has no work pool", why)
    for pool, known in workers.items():
        online = [worker.name for worker in known if worker.status == WorkerStatus.ONLINE]
        found = ", ".join(online) or "none is online"
        why = "runs that are scheduled there wait: `ackd worker`"
        yield Finding(f"worker of {pool}", bool(online), found, why)


def _remotes(root: Path) -> Iterator[Finding]:
    try:
        known = remotes(root)
    except InputError as error:
        yield Finding("DVC remote", False, str(error), "nothing is pushed or pulled")
        return
    if not known:
        why = "results stay on this machine: `dvc remote add --default NAME URL`"
        yield Finding("DVC remote", False, "none", why)
    for remote in known:
        what, why = f"DVC remote {remote.name}", "results are neither pushed nor pulled: "
        if "://" not in remote.url:
            usable = os.access(remote.url, os.W_OK)
            found = f"{remote.url}{'' if usable else ', which is not there or not yours to write'}"
            yield Finding(what, usable, found, f"{why}mount or make it, or have it opened to you")
            continue
        try:
            dvc(root, "status", "--cloud", "--remote", remote.name, timeout_s=_REMOTE_S)
        except InputError as error:
            why += f"look at the network, its URL and login, then `dvc push -r {remote.name}`"
            yield Finding(what, False, str(error), why)
        else:
            yield Finding(what, True, "answers, and lets you in", "")
