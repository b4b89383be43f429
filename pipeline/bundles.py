"""Opens and verifies bundles from untrusted sources, manifest first."""

import contextlib
import gzip
import hashlib
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.message import DecodeError, Message

from models.errors import InputError
from stages.bundle.keys import is_signed_by, key_id
from stages.devices.proof import (
    MANIFEST,
    MAX_MANIFEST,
    SIGNATURE,
    DeviceError,
    read_description,
    read_manifest,
    read_small,
    verify,
)
from stages.runtimes.exported import SHAPES, Exported

_SIGNATURE_BYTES = 64
_TAR_BLOCK = 512
#: gzip shrinks a model by a few percent; an archive beyond this ratio is no bundle.
_MAX_RATIO = 100


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle that has exactly the files of its manifest."""

    folder: Path  # of its files, flat
    manifest: dict[str, Any]
    manifest_sha256: str  # of the file manifest.json; identifies the whole bundle
    exported: Exported

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def version(self) -> str:
        return str(self.manifest["version"])

    @property
    def signer(self) -> str | None:
        """The id of the signing key that the manifest names."""
        return None if self.manifest["key_id"] is None else str(self.manifest["key_id"])

    def require_signature(self, key: Ed25519PublicKey) -> None:
        """Raise InputError unless the bundle is signed with this key."""
        _read_head(self.folder, key)


@contextlib.contextmanager
def open_bundle(path: Path, key: Ed25519PublicKey | None = None) -> Iterator[Bundle]:
    """Open and verify a bundle, an archive or a folder.

    The manifest is read first, then its signature, then only the files that it lists, each with its
    stated size.

    Raises:
        InputError: it is no bundle; a file is altered, missing or additional; it has no model or
            needs a file from outside; or it is not signed with ``key``.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = path if path.is_dir() else Path(temporary)
        try:
            if not path.is_dir():
                _unpack(path, folder, key)
            content = _read_head(folder, key)
            manifest = verify(folder)
            exported = Exported(folder, read_description(folder, "package the bundle again"))
        except DeviceError as error:
            raise InputError(str(error)) from None
        except OSError as error:
            raise InputError(f"{error.filename or path}: {error.strerror}") from None
        for file, digest in exported.sums(*SHAPES).items():
            if manifest["files"].get(file.name, {}).get("sha256") != digest:
                raise InputError(
                    f"model.json: {file.name} is not the file of {MANIFEST}; package it again"
                )
            if file.suffix == ".onnx":
                _require_self_contained(file)
        yield Bundle(folder, manifest, hashlib.sha256(content).hexdigest(), exported)


def _read_head(folder: Path, key: Ed25519PublicKey | None) -> bytes:
    """Return the manifest's bytes; with a key, verify the signature first."""
    content = read_small(folder / MANIFEST, MAX_MANIFEST)
    if key is None:
        return content
    wanted, signer = key_id(key), read_manifest(content)["key_id"]
    if signer is None or not (folder / SIGNATURE).exists():
        raise InputError(
            f"{MANIFEST}: not signed, but the key {wanted} is required; package it again with"
            " ACKD_SIGNING_KEY set"
        )
    if is_signed_by(key, content, read_small(folder / SIGNATURE, _SIGNATURE_BYTES)):
        return content
    if signer != wanted:
        raise InputError(
            f"{MANIFEST}: signed with the key {signer}, expected {wanted}; package it"
            f" again with the expected key, or give the public key of {signer}"
        )
    raise InputError(
        f"{SIGNATURE}: not a signature of {MANIFEST} by the key {wanted}; one of the two files was"
        " altered; package it again"
    )


def _unpack(path: Path, folder: Path, key: Ed25519PublicKey | None) -> None:
    """Unpack an archive into ``folder`` after checking the signature of its manifest."""
    try:
        with gzip.open(path) as stream:
            members = _members(stream, path)

            def unpack_next(wanted: str, limit: int) -> None:
                name, size = next(members, ("nothing", 0))
                if name != wanted or not 0 <= size <= limit:
                    raise InputError(
                        f"{path}: has {name} of {size} bytes where a bundle has {wanted}; give a"
                        " file or folder that `ackd run` packaged"
                    )
                _copy(stream, size, folder / name)

            unpack_next(MANIFEST, MAX_MANIFEST)
            manifest = read_manifest((folder / MANIFEST).read_bytes())
            if manifest["key_id"] is not None:
                unpack_next(SIGNATURE, _SIGNATURE_BYTES)
            _read_head(folder, key)
            sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
            if sum(sizes.values()) > _MAX_RATIO * path.stat().st_size:
                raise InputError(
                    f"{path}: would unpack to more than {_MAX_RATIO} times its size, unlike any"
                    " bundle; get it from another source"
                )
            for name, size in members:
                if sizes.pop(name, None) != size:
                    raise InputError(
                        f"{path}: {name} is not in {MANIFEST} or does not have the size stated"
                        " there; get the bundle again"
                    )
                _copy(stream, size, folder / name)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `ackd run` packages a bundle") from None
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path}: damaged or no bundle ({error}); package it again") from None


def _members(stream: gzip.GzipFile, path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and size of each file; the caller reads its bytes before the next one.

    ``tarfile`` would follow whatever an archive contains: links, sparse files of any size, names of
    any length.

    Raises:
        InputError: a member is no plain file, or not directly in a folder.
    """
    while (block := stream.read(_TAR_BLOCK)).strip(b"\0"):
        member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        folder, _, name = member.name.rpartition("/")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or "/" in folder or not folder:
            raise InputError(
                f"{path}: {member.name} is no plain file in a folder; give a bundle that `ackd run`"
                " packaged"
            )
        yield name, member.size
        stream.read(-member.size % _TAR_BLOCK)


def _copy(stream: gzip.GzipFile, size: int, path: Path) -> None:
    with path.open("xb") as target:
        while size:
            block = stream.read(min(size, 1 << 20))
            if not block:
                raise EOFError("it ends too early")
            target.write(block)
            size -= len(block)


def _require_self_contained(file: Path) -> None:
    """Raise InputError if a model loads weights from another file, which could be any file."""
    try:
        model = onnx.load_model(file, load_external_data=False)
    except DecodeError:
        raise InputError(f"{file.name}: no ONNX model; package the bundle again") from None
    if _has_external_data(model):
        raise InputError(
            f"{file.name}: keeps weights in another file; export it with all weights inside"
        )


def _has_external_data(part: Message) -> bool:
    if isinstance(part, onnx.TensorProto):
        return part.data_location == onnx.TensorProto.EXTERNAL
    parts = (value for field, value in part.ListFields() if field.message_type)
    return any(
        _has_external_data(inner)
        for value in parts
        for inner in ([value] if isinstance(value, Message) else value)
    )
