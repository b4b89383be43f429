"""Ed25519 keys that sign bundles, in PEM files that openssl reads too."""

import hashlib
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from models.errors import InputError

SIGNING_KEY = "ACKD_SIGNING_KEY"


def new_key(private_file: Path) -> tuple[Path, str]:
    """Write a new private key, readable only by its owner, and the public one (``.pub``) beside it.

    Returns the public key's file and the key id; raises InputError if one of the files exists, or
    they cannot be written.
    """
    public_file = private_file.with_name(private_file.name + ".pub")
    for path in (private_file, public_file):
        if path.exists() or path.is_symlink():
            raise InputError(f"{path}: exists already; name another file")
    key, pem = Ed25519PrivateKey.generate(), serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private = key.private_bytes(pem, *form).decode("ascii")
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        private_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Created with its final mode, and never over an existing file.
        with open(private_file, "x", opener=partial(os.open, mode=0o600)) as file:
            file.write(private)
        public_file.write_bytes(public)
    except OSError as error:
        raise InputError(f"{private_file}: could not be written ({error.strerror})") from None
    return public_file, key_id(key.public_key())


def key_id(key: Ed25519PublicKey) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the key's 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def configured_key() -> Ed25519PrivateKey | None:
    """Load the private key of ``ACKD_SIGNING_KEY``, if it is set; raises InputError if invalid."""
    name = os.environ.get(SIGNING_KEY)
    if not name:
        return None
    path = Path(name).expanduser()
    key = _load(path, SIGNING_KEY, partial(serialization.load_pem_private_key, password=None))
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InputError(
            f"{path}: other users can read or change this private key; run `chmod 600 {path}`, or"
            " make a new key if somebody may have read it"
        )
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(
            f"{path}: expected an Ed25519 private key without a passphrase; make one with"
            " `ackd keys new`"
        )
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Load a public key; raises InputError if the file is missing or not a public key."""
    key = _load(path, "the public key", serialization.load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(
            f"{path}: expected an Ed25519 public key; give the .pub file from `ackd keys new`"
        )
    return key


def is_signed_by(key: Ed25519PublicKey, content: bytes, signature: bytes) -> bool:
    """Return whether ``signature`` is the key's signature of exactly these bytes."""
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _load(path: Path, what: str, parse: Callable[[bytes], object]) -> object:
    """Return the key in a file; None if it holds none, or one with a passphrase."""
    try:
        return parse(path.read_bytes())
    except (ValueError, TypeError):
        return None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {what} names it") from None
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from None
