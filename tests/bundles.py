"""Small bundles, as ``package`` writes them, of models that answer with a mean colour."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stages.bundle.manifest import write_manifest
from stages.devices.host import RUNNER
from stages.files import sha256
from stages.package import write_archive, write_sums
from tests.stages import chain_files


def make_bundle(
    folder: Path,
    version: str = "1.0.0",
    key: Ed25519PrivateKey | None = None,
    *,
    wrong: bool = False,
) -> Path:
    """``folder`` with a bundle's files.

    Args:
        folder: must not exist.
        version: of the bundle.
        key: to sign with.
        wrong: whether the golden logits are others than the models'.
    """
    origin = folder.with_name(folder.name + "-origin")
    origin.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(origin)
    try:
        chain_files.write_onnx()
    finally:
        os.chdir(before)
    shutil.copytree(origin / "artifacts/onnx", folder)
    shutil.rmtree(origin)
    shutil.copy(RUNNER, folder / "runner.py")
    if wrong:
        with np.load(folder / "golden.npz") as golden:
            arrays = dict(golden)
        arrays["logits"][0, 0] += 0.5 * np.abs(arrays["logits"]).max()
        np.savez(folder / "golden.npz", **arrays)
        model = json.loads((folder / "model.json").read_text())
        model["golden"]["sha256"] = sha256(folder / "golden.npz")
        (folder / "model.json").write_text(json.dumps(model))
    write_sums(folder)
    write_manifest(folder, version, key)
    return folder


def pack(folder: Path) -> Path:
    """The same in one file."""
    path = folder.with_suffix(".tar.gz")
    write_archive(path, folder, "bundle")
    return path


def flip_byte(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
