"""Provides an arm64 Python with onnxruntime in a folder, run by qemu's user mode.

It shows whether an arm64 machine computes the same, not how fast. It needs no installation and no
permissions, because apt uses separate lists. The folder is kept in the cache.
"""

import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.packages import pip, run_or_skip

WHAT = "Python for arm64"
# From a Raspberry Pi 4. Otherwise onnxruntime reads this machine's file and crashes.
_CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""


def arm64_python() -> list[str]:
    """Return the command that runs it; skip the test if qemu or a package is unavailable."""
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None:
        pytest.skip("qemu for arm64 is not installed (apt-get install qemu-user-static)")
    root = _root()
    python = _python(root)
    return [qemu, "-cpu", "cortex-a72", "-L", str(root), "-E", f"PYTHONPATH={root}/site", python]


def _root() -> Path:
    packages = [f"{name}=={importlib.metadata.version(name)}" for name in ("onnxruntime", "numpy")]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ackd"
    root = cache / "-".join(["arm64", *(package.replace("==", "-") for package in packages)])
    if not root.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder, "root")
            _unpack_python(Path(folder), made)
            _install(packages, made)
            (made / "proc").mkdir()
            (made / "proc/cpuinfo").write_text(_CPUINFO)
            made.rename(root)
        for other in set(cache.glob("arm64-*")) - {root}:  # of versions no longer tested
            shutil.rmtree(other)
    return root


def _unpack_python(folder: Path, root: Path) -> None:
    """Unpack Debian's Python with its dependencies, without running package scripts."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()  # an empty system
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "20",
        "Debug::NoLocking": "1",
        "Dir::Cache": str(folder / "cache"),
        "Dir::State": str(folder / "state"),
        "Dir::State::status": str(folder / "status"),
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    run_or_skip([*apt, "update"], WHAT)
    run_or_skip([*apt, "install", "--yes", "--download-only", "python3", "libstdc++6"], WHAT)
    for package in (folder / "cache/archives").glob("*.deb"):
        run_or_skip(["dpkg-deb", "--extract", str(package), str(root)], WHAT)


def _install(packages: list[str], root: Path) -> None:
    version = Path(_python(root)).name.removeprefix("python")
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 27, 28)]
    pip(
        *("install", *platforms, "--python-version", version, "--target", str(root / "site")),
        *packages,
        what=f"onnxruntime for Python {version} on arm64",
    )


def _python(root: Path) -> str:
    (python,) = (root / "usr/bin").glob("python3.[0-9]*[0-9]")
    return str(python)
