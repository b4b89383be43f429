"""What the commands that open bundles share: the key that must have signed, and what was not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="PUBLIC", help="The public key that must have signed it."),
]


def read_key(path: Path | None) -> Ed25519PublicKey | None:
    """The key of a ``--key``, if it was given."""
    from stages.bundle.keys import read_public_key

    return None if path is None else read_public_key(path)


def report_unchecked(key_id: str | None) -> None:
    """State that nobody checked the signature by a key, if there is one."""
    if key_id is not None:
        typer.echo(
            f"the signature by the key {key_id} was not checked; name the public key by --key"
        )
