"""Builds small bundles in the format of ``package``, with models that return a mean colour."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stages.bundle.manifest import write_manifest
from stages.devices.programs import RUNNER, single_file
from stages.devices.proof import MANIFEST, SIGNATURE
from stages.files import sha256
from stages.package import write_archive
from tests.stages import chain_files

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def make_bundle(
    folder: Path,
    version: str = "1.0.0",
    key: Ed25519PrivateKey | None = None,
    *,
    wrong: bool = False,
) -> Path:
    """Write a bundle to a new folder; a wrong one has other golden logits than its models."""
    origin = folder.with_name(folder.name + "-origin")
    origin.mkdir(parents=True)
    with contextlib.chdir(origin):
        chain_files.write_onnx()
    shutil.move(origin / "artifacts/onnx", folder)
    shutil.rmtree(origin)
    (folder / "runner.py").write_bytes(single_file(RUNNER))
    if wrong:
        with np.load(folder / "golden.npz") as golden:
            arrays = dict(golden)
        arrays["logits"][0, 0] += 0.5 * np.abs(arrays["logits"]).max()
        np.savez(folder / "golden.npz", **arrays)
        with changed(folder / "model.json") as model:
            model["golden"]["sha256"] = sha256(folder / "golden.npz")
    return seal(folder, version, key)


def seal(
    folder: Path,
    version: str = "1.0.0",
    key: Ed25519PrivateKey | None = None,
    *,
    name: str = "student",
) -> Path:
    """Write the manifest and signature of the current files."""
    for old in (MANIFEST, SIGNATURE):
        (folder / old).unlink(missing_ok=True)
    write_manifest(folder, name, version, key)
    return folder


@contextlib.contextmanager
def changed(path: Path) -> Iterator[dict[str, Any]]:
    """Edit the content of a JSON file within the block."""
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content))


def pack(folder: Path) -> Path:
    """Pack a bundle's folder into an archive."""
    path = folder.with_suffix(".tar.gz")
    write_archive(path, folder, "bundle")
    return path


def flip_byte(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
