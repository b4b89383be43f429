"""Verify a bundle's files against its manifest, here and on a device.

Needs only Python 3.8 or newer; inlined into ``runner.py`` and ``agent.py``.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from pathlib import Path
from typing import Any


class DeviceError(Exception):
    """An error that the user can fix; the message is one sentence."""


MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
#: Part of what is signed, so a signature is valid for this format only.
FORMAT = "ackd-bundle-1"
#: The most bytes and files of a manifest.
MAX_MANIFEST = 1 << 20
MAX_FILES = 1000
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9/_-]{0,98}[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_NUMBERS = ("num_classes", "image_size", "resize")
_FITS = ("crop", "pad", "stretch")


def read_manifest(content: bytes) -> dict[str, Any]:
    """Parse ``manifest.json``; raises DeviceError if it is damaged or has another format."""
    try:
        manifest = json.loads(content.decode("utf-8"))
        files = list(manifest["files"].items())
        altered = manifest.pop("sha256") != manifest_sum(manifest)
        well_formed = (
            manifest["format"] == FORMAT
            and 0 < len(files) <= MAX_FILES
            and _NAME.fullmatch(manifest["name"])
            and _VERSION.fullmatch(manifest["version"])
            and (manifest["key_id"] is None or _KEY_ID.fullmatch(manifest["key_id"]))
            and all(FILE_NAME.fullmatch(name) for name, _ in files)
            and not {MANIFEST, SIGNATURE} & set(manifest["files"])
            and all(_SHA256.fullmatch(entry["sha256"]) for _, entry in files)
            and all(type(entry["bytes"]) is int and entry["bytes"] >= 0 for _, entry in files)
        )
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise DeviceError(
            f"{MANIFEST}: damaged, or not in the format {FORMAT}; get the bundle again"
        ) from None
    if altered:
        raise DeviceError(f"{MANIFEST}: altered since it was packaged; get the bundle again")
    if not well_formed:
        raise DeviceError(
            f"{MANIFEST}: expected the format {FORMAT}, a version such as 1.2.0, and at least one"
            " file with a plain name, sha256 and bytes; package the bundle again"
        )
    return dict(manifest)


def manifest_sum(manifest: dict[str, Any]) -> str:
    """Return the ``sha256`` of a manifest, over its other keys."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def verify(folder: Path) -> dict[str, Any]:
    """Return a bundle's manifest; raises DeviceError if a file is missing, altered or unlisted."""
    manifest = read_manifest(read_small(folder / MANIFEST, MAX_MANIFEST))
    signature = [] if manifest["key_id"] is None else [SIGNATURE]
    for name in [*manifest["files"], *signature]:
        path, entry = folder / name, manifest["files"].get(name)
        if not path.exists():
            raise DeviceError(f"{name}: missing; get the bundle again")
        if entry is not None and not _is(path, entry):
            raise DeviceError(f"{name}: altered since it was packaged; get the bundle again")
    for path in sorted(folder.iterdir()):
        if path.name not in {MANIFEST, *signature, *manifest["files"]}:
            raise DeviceError(f"{path.name!a}: not listed in {MANIFEST}; remove it")
    return manifest


def _is(path: Path, entry: dict[str, Any]) -> bool:
    """Return whether a file matches the manifest; pipes and files of another size are not read."""
    found = path.stat()
    regular = stat.S_ISREG(found.st_mode) and found.st_size == entry["bytes"]
    return regular and sha256(path) == entry["sha256"]


def read_description(folder: Path, remedy: str) -> dict[str, Any]:
    """Parse ``model.json`` of exported models and check that it names only files in ``folder``.

    Raises DeviceError, ending with ``remedy``, if it is missing or damaged, or names no model.
    """
    try:
        description = dict(json.loads((folder / "model.json").read_text(encoding="utf-8")))
        models = description["files"]
        entries = [files[shape] for files in models.values() for shape in ("dynamic", "static")]
        well_formed = (
            len(entries) > 0
            and all(FILE_NAME.fullmatch(precision) for precision in models)
            and all(
                FILE_NAME.fullmatch(entry["path"]) and _SHA256.fullmatch(entry["sha256"])
                for entry in (*entries, description["golden"])
            )
            and all(description[key].isprintable() for key in ("network", "input", "output"))
            and all(type(n) is int and n > 0 for n in map(description.get, _NUMBERS))
            and description["resize"] >= description["image_size"]
            and description["fit"] in _FITS
        )
    except FileNotFoundError:
        raise DeviceError(f"model.json: no such file; {remedy}") from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        well_formed = False
    if not well_formed:
        raise DeviceError(f"model.json: damaged, or names no exported model; {remedy}")
    return description


def read_small(path: Path, limit: int) -> bytes:
    """Read a file of a bundle; raises DeviceError if it is missing or exceeds ``limit`` bytes."""
    if not path.is_file():
        raise DeviceError(f"{path.name}: missing in {path.parent}; give a bundle")
    with path.open("rb") as handle:
        content = handle.read(limit + 1)
    if len(content) > limit:
        raise DeviceError(f"{path.name}: too large; give a bundle")
    return content


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
