"""Write a bundle's ``manifest.json``: name, version, checksums and the signer's key id."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stages.bundle.keys import key_id
from stages.devices.proof import FORMAT, MANIFEST, SIGNATURE, manifest_sum
from stages.files import sha256, write_json


def write_manifest(folder: Path, name: str, version: str, key: Ed25519PrivateKey | None) -> None:
    """Write the manifest of all files in ``folder``, and sign it if there is a key.

    Equal contents give equal bytes, because Ed25519 signatures are deterministic.
    """
    signer = None if key is None else key_id(key.public_key())
    sums = {path: sha256(path) for path in sorted(folder.iterdir())}
    write_json(folder / MANIFEST, describe(sums, name, version, signer))
    if key is not None:
        (folder / SIGNATURE).write_bytes(key.sign((folder / MANIFEST).read_bytes()))


def describe(
    sums: Mapping[Path, str], name: str, version: str, signer: str | None
) -> dict[str, Any]:
    """Build the manifest of files with these SHA-256; ``signer`` is the id of the signing key."""
    manifest = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "key_id": signer,
        "files": {
            path.name: {"sha256": digest, "bytes": path.stat().st_size}
            for path, digest in sums.items()
        },
    }
    return {**manifest, "sha256": manifest_sum(manifest)}
