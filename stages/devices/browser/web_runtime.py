"""The files of onnxruntime-web: one exact release, proven by its sum, in a cache folder.

They are 60 MB, so neither the repository nor the Python package holds them. The npm client fetches
the release that is named here; a page loads them from this machine and nothing from elsewhere.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from models.errors import InputError
from stages.files import new_folder

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
#: Of the packed release, as the registry and every lock file of npm state it.
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
#: The library for the CPU, that for the GPU, and what each of them loads.
FILES = (
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs"),
    "ort-wasm-simd-threaded.asyncify.wasm",
)

_PLACE = "ACKD_ONNXRUNTIME_WEB"


def folder() -> Path:
    """Where the files of this release lie, or will.

    Raises:
        InputError: no place is known.
    """
    if place := os.environ.get(_PLACE):
        return Path(place) / VERSION
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise InputError(
            f"no home folder is known to keep {PACKAGE} in; set {_PLACE} to a folder"
        ) from None
    return cache / "ackd" / PACKAGE / VERSION


def installed() -> bool:
    return all((folder() / f"{name}.gz").is_file() for name in FILES)


def require() -> Path:
    """The folder with each of FILES, compressed, as ``<name>.gz``.

    Raises:
        InputError: they are not installed.
    """
    if not installed():
        raise InputError(
            f"{PACKAGE} {VERSION} is not in {folder()}; run `ackd probe --install` once, which"
            " fetches it with npm (33 MB)"
        )
    return folder()


def install(packed: Path | None = None) -> Path:
    """Put the files where :func:`require` looks for them.

    Args:
        packed: the release as ``npm pack onnxruntime-web@<version>`` writes it; None fetches it.

    Raises:
        InputError: npm is missing or fails, the release is not the one that is named here, or the
            folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="ackd-") as temporary:
        source = _fetch(Path(temporary)) if packed is None else packed
        try:
            content = source.read_bytes()
        except OSError as error:
            raise InputError(f"{source}: {error.strerror}; give a packed release") from None
        digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
        if digest != SHA512:
            raise InputError(
                f"{source.name}: not {PACKAGE} {VERSION} as it was published (its sha512 differs);"
                f" fetch it again with `npm pack {PACKAGE}@{VERSION}`"
            )
        try:
            with new_folder(folder()) as place, tarfile.open(source) as archive:
                for name in FILES:
                    member = archive.extractfile(f"package/dist/{name}")
                    assert member is not None  # by the sum
                    # As they are sent: a phone on Wi-Fi waits for a quarter of the bytes.
                    with member, gzip.open(place / f"{name}.gz", "wb", compresslevel=6) as file:
                        shutil.copyfileobj(member, file)
        except OSError as error:  # such as that of a user without a home folder
            raise InputError(
                f"{folder()}: not written ({error.strerror}); set {_PLACE} to a folder of yours"
            ) from None
    return folder()


def _fetch(place: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"npm, which fetches {PACKAGE} {VERSION}, is not installed; install Node.js with npm,"
            f" or run `npm pack {PACKAGE}@{VERSION}` elsewhere and give the file: `ackd probe"
            " --install-from FILE`"
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--loglevel=error"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    packed = place / f"{PACKAGE}-{VERSION}.tgz"
    if done.returncode or not packed.is_file():
        why = done.stderr.strip().partition("\n")[0] or f"it ended with status {done.returncode}"
        raise InputError(
            f"npm could not fetch {PACKAGE} {VERSION}: {why}; see that it reaches its registry and"
            " run again"
        )
    return packed
