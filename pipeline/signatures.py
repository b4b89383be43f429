"""The ``--key`` option of all commands that open bundles, and the note if it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="PUBLIC", help="Public key that the bundle must be signed with."),
]


def read_key(path: Path | None) -> Ed25519PublicKey | None:
    """Read the key given with ``--key``, if any."""
    from stages.bundle.keys import read_public_key

    return None if path is None else read_public_key(path)


def report_unchecked(key_id: str | None) -> None:
    """Print that the signature, if there is one, was not checked."""
    if key_id is not None:
        typer.echo(
            f"the signature by the key {key_id} was not checked; pass its public key with --key"
        )
