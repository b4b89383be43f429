"""numpy and onnxruntime for another machine, chosen and unpacked here."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from models.errors import InputError
from stages.devices.commands import run_program

PACKAGES = ("numpy", "onnxruntime")
_OLDEST_GLIBC = 5  # that there is a tag for


def install_for(device: dict[str, Any], site: Path, url: str) -> None:
    """Install the wheels that fit a device into ``site``; nothing is built or run.

    pip downloads them from where it is configured to.

    Args:
        device: the answer of ``agent.py describe``.
        site: an empty folder, for ``PYTHONPATH`` there.

    Raises:
        InputError: there are no wheels for such a device, or the download takes too long.
    """
    major, minor = device["python"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-compile", "--only-binary=:all:", "--target", str(site)]
    command += ["--implementation", "cp", "--python-version", f"{major}.{minor}"]
    for platform in platforms(device, url):
        command += ["--platform", platform]
    finished = run_program([*command, *PACKAGES], url)
    if finished.code:
        errors = re.findall(r"^ERROR: (.*)", finished.err, re.MULTILINE)
        reason = errors[-1] if errors else "pip gave no reason"
        raise InputError(
            f"{url}: no wheels of {' and '.join(PACKAGES)} for Python {major}.{minor} on"
            f" {device['machine']} ({reason}); install them there by other means"
        )


def platforms(device: dict[str, Any], url: str) -> list[str]:
    """The platform tags of wheels for a device, newest glibc first.

    Raises:
        InputError: it is not Linux with glibc and CPython, which wheels exist for.
    """
    known = (device["system"], device["libc"], device["implementation"])
    if known != ("Linux", "glibc", "CPython"):
        raise InputError(
            f"{url}: --send-wheels needs CPython on Linux with glibc, and this is"
            f" {device['implementation']} on {device['system']}"
            f" with {device['libc'] or 'another C library'}; install numpy and onnxruntime there"
        )
    machine, newest = device["machine"], int(str(device["libc_version"]).split(".")[1])
    tags = [f"manylinux_2_{version}_{machine}" for version in range(newest, _OLDEST_GLIBC - 1, -1)]
    # Tags older than PEP 600 name years; pip expands this one to the older ones.
    return [*tags, f"manylinux2014_{machine}"] if newest >= 17 else tags
