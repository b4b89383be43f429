"""``manifest.json`` of a bundle: version, sums of all files, and whose signature it bears."""

from __future__ import annotations

import contextlib
import json
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from models.errors import InputError
from stages.bundle.keys import is_signed_by, key_id
from stages.files import sha256, write_json
from stages.sections.result import VERSION

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
#: Also keeps a signature from being one over anything else than a manifest of this form.
FORMAT = "ackd-bundle-1"


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle whose files are as its manifest says.

    Attributes:
        folder: its files, flat.
        manifest: what ``manifest.json`` says.
        manifest_sha256: of that file, which stands for the whole bundle.
        model: what ``model.json`` says.
    """

    folder: Path
    manifest: dict[str, Any]
    manifest_sha256: str
    model: dict[str, Any]

    @property
    def version(self) -> str:
        return str(self.manifest["version"])


def write_manifest(folder: Path, version: str, key: Ed25519PrivateKey | None) -> None:
    """Describe all files in ``folder``, and sign that where there is a key.

    Equal contents give equal bytes, the signature's too: Ed25519 draws nothing.
    """
    files = {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    manifest = {
        "format": FORMAT,
        "version": version,
        "key_id": None if key is None else key_id(key.public_key()),
        "files": files,
    }
    write_json(folder / MANIFEST, manifest)
    if key is not None:
        (folder / SIGNATURE).write_bytes(key.sign((folder / MANIFEST).read_bytes()))


@contextlib.contextmanager
def open_bundle(path: Path, key: Ed25519PublicKey | None = None) -> Iterator[Bundle]:
    """A bundle as ``package`` wrote it, the file or the folder, with all its sums proven.

    Args:
        path: of the file or the folder.
        key: whose signature it must bear.

    Raises:
        InputError: it is missing or no bundle, a file is altered, missing or too many, or it is
            not signed with ``key``.
    """
    if path.is_dir():
        yield _proven(path, key)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield _proven(_unpacked(path, Path(temporary)), key)


def verify_signature(folder: Path, manifest: dict[str, Any], key: Ed25519PublicKey) -> None:
    """Raises InputError unless the manifest in ``folder`` bears this key's signature."""
    signature_file, wanted = folder / SIGNATURE, key_id(key)
    if not signature_file.is_file():
        raise InputError(
            f"{MANIFEST}: not signed, and the key {wanted} is required; package it anew with"
            " ACKD_SIGNING_KEY set"
        )
    content = (folder / MANIFEST).read_bytes()
    if is_signed_by(key, content, signature_file.read_bytes()):
        return
    signer = manifest.get("key_id")
    if signer != wanted:
        raise InputError(
            f"{MANIFEST}: says that it is signed with the key {signer}, expected {wanted}; package"
            " it anew with that key, or give the other one's public key"
        )
    raise InputError(
        f"{SIGNATURE}: not the signature of {MANIFEST} by the key {wanted}, so one of the two was"
        " altered; package it anew"
    )


def _proven(folder: Path, key: Ed25519PublicKey | None) -> Bundle:
    manifest = _read(folder / MANIFEST)
    if key is not None:  # first, as it is what tells whether the sums can be believed
        verify_signature(folder, manifest, key)
    files, version = manifest.get("files"), manifest.get("version")
    if manifest.get("format") != FORMAT or not isinstance(files, dict):
        raise InputError(f"{MANIFEST}: not of a bundle of the form {FORMAT}; package it anew")
    if not re.fullmatch(VERSION, str(version)):
        raise InputError(f"{MANIFEST}: {version!r} is no version such as 1.2.0; package it anew")
    for name, entry in files.items():
        if Path(name).name != name:
            raise InputError(f"{MANIFEST}: {name!r} is no plain name of a file; package it anew")
        if not (folder / name).is_file():
            raise InputError(f"{name}: missing in the bundle; copy it again, or package it anew")
        if not isinstance(entry, dict) or sha256(folder / name) != entry.get("sha256"):
            raise InputError(
                f"{name}: altered since it was packaged, or {MANIFEST} was (its sha256 is not the"
                " one there); package it anew"
            )
    for path in sorted(folder.iterdir()):
        if path.name not in {MANIFEST, SIGNATURE, *files}:
            raise InputError(f"{path.name}: not in {MANIFEST} of the bundle; remove it")
    return Bundle(folder, manifest, sha256(folder / MANIFEST), _read(folder / "model.json"))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path.name}: missing in {path.parent.name}; give a bundle that `ackd run` packaged"
        ) from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path.name}: damaged; package the bundle anew")
    return content


def _unpacked(path: Path, target: Path) -> Path:
    """The one folder in the archive; its members may be plain files in it and nothing else."""
    folder = target / "bundle"
    folder.mkdir()
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                parts = Path(member.name).parts
                if member.isdir() and len(parts) == 1:  # as tar writes one for the folder itself
                    continue
                _check_plain(member, path)
                member.name = parts[1]
                archive.extract(member, folder, set_attrs=False, filter="data")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `ackd run` packages a bundle") from None
    except InputError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        # Only the first line: tarfile tells what each of its formats found wrong.
        what = str(error).partition("\n")[0].rstrip(":")
        raise InputError(f"{path}: damaged or no bundle ({what}); package it anew") from None
    return folder


def _check_plain(member: tarfile.TarInfo, path: Path) -> None:
    parts = Path(member.name).parts
    if not member.isreg() or len(parts) != 2 or {"..", "/"} & set(parts):
        raise InputError(
            f"{path}: {member.name} is no plain file of a bundle; give one that `ackd run` packaged"
        )
