"""The command that frees disk."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer


class Kind(StrEnum):
    """What `ackd gc` looks at."""

    checkpoints = "checkpoints"
    logits = "logits"


def gc(
    only: Annotated[
        list[Kind] | None,
        typer.Option(help="Look at this alone. May be repeated.", show_default="both"),
    ] = None,
    older_than: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="DAYS",
            help="How long they must lie unused; 0 takes all that no training uses.",
        ),
    ] = 7,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without a question.")] = False,
) -> None:
    """List checkpoints and logits that no training needs and why, then free them.

    What a training uses at this moment stays, whatever its age. `dvc gc` cleans DVC's cache:
    docs/how-to-keep-it-running.md.
    """
    from rich.filesize import decimal

    from pipeline.upkeep.gc import find, remove

    found = find(only or list(Kind), older_than)
    unneeded = [item for item in found if not item.stays]
    for item in found:
        what = "stays" if item.stays else item.kind
        typer.echo(f"{what}: {item.path}, {decimal(item.bytes)}: {item.why}")
    if not unneeded:
        typer.echo("nothing to free")
        return
    typer.echo(f"in all {decimal(sum(item.bytes for item in unneeded))}")
    if not yes and not sys.stdin.isatty():
        typer.echo("nothing was removed; `--yes` removes it")
    elif yes or typer.confirm("Remove all of it?", err=True):
        typer.echo(f"{decimal(sum(map(remove, unneeded)))} freed")
    else:
        typer.echo("nothing was removed")
