"""The files of onnxruntime-web: one pinned release in a cache folder, verified by checksum.

The npm client fetches their 60 MB on demand. The page loads them from this machine.
"""

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
#: Of the packed release, as stated in the registry and in npm's lock files.
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
#: The libraries for CPU and GPU, and the files they load.
FILES = (
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs"),
    "ort-wasm-simd-threaded.asyncify.wasm",
)

_PLACE = "ACKD_ONNXRUNTIME_WEB"


def folder() -> Path:
    """Return the folder for the files of this release."""
    # Path.home() fails if the home folder is unknown.
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(os.environ.get(_PLACE) or Path(cache, "ackd", PACKAGE)) / VERSION


def installed() -> bool:
    return all((folder() / f"{name}.gz").is_file() for name in FILES)


def require() -> Path:
    """Return the folder of FILES as ``<name>.gz``; raises InputError if it is not installed."""
    if not installed():
        raise InputError(
            f"{PACKAGE} {VERSION} is not in {folder()}; run `ackd probe --install` once to fetch"
            " it with npm (33 MB)"
        )
    return folder()


def install(packed: Path | None = None) -> None:
    """Install the files for :func:`require`, from the output of ``npm pack`` or from npm.

    Raises:
        InputError: npm is missing or fails, the checksum is wrong, or the folder is not writable.
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
                f"{source.name}: not {PACKAGE} {VERSION} as published (its sha512 differs);"
                f" fetch it again with `npm pack {PACKAGE}@{VERSION}`"
            )
        try:
            with new_folder(folder()) as place, tarfile.open(source) as archive:
                for name in FILES:
                    member = archive.extractfile(f"package/dist/{name}")
                    assert member is not None  # the checksum guarantees it
                    # Served compressed: a quarter of the bytes for a phone on Wi-Fi.
                    with member, gzip.open(place / f"{name}.gz", "wb", compresslevel=6) as file:
                        shutil.copyfileobj(member, file)
        except OSError as error:  # for example without a home folder
            raise InputError(
                f"{folder()}: could not be written ({error.strerror}); set {_PLACE} to another"
                " folder"
            ) from None


def _fetch(place: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"npm is needed to fetch {PACKAGE} {VERSION}, and is not installed; install Node.js"
            f" with npm, or run `npm pack {PACKAGE}@{VERSION}` elsewhere and then `ackd probe"
            " --install-from FILE`"
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--loglevel=error"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    packed = place / f"{PACKAGE}-{VERSION}.tgz"
    if done.returncode or not packed.is_file():
        why = done.stderr.strip().partition("\n")[0] or f"it ended with status {done.returncode}"
        raise InputError(
            f"npm could not fetch {PACKAGE} {VERSION}: {why}; check that it reaches its registry,"
            " and run again"
        )
    return packed
