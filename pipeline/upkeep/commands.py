"""The command that frees disk."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Kind(StrEnum):
    """What `ackd gc` looks at."""

    checkpoints = "checkpoints"
    logits = "logits"
    cache = "cache"
    temporary = "temporary"


def gc(
    only: Annotated[
        list[Kind] | None,
        typer.Option(help="Look at this alone. May be repeated.", show_default="all of them"),
    ] = None,
    older_than: Annotated[
        str,
        typer.Option(
            metavar="AGE",
            help="How long checkpoints, logits and temporary folders must lie unused, in days,"
            " hours or minutes: 7d, 12h, 30m. 0d takes all that no training uses.",
        ),
    ] = "7d",
    yes: Annotated[bool, typer.Option("--yes", help="Remove without a question.")] = False,
) -> None:
    """Say what of the disk is no longer needed and why, then free it.

    Checkpoints are those of interrupted trainings, which would begin anew without them. Logits are
    a teacher's, which are computed again where they are missing. Of DVC's cache goes what neither
    the workspace nor any branch, tag or experiment refers to. Temporary are the folders of
    processes that were killed. What a training uses at this moment stays, whatever its age.
    """
    from pipeline.project import require_project
    from pipeline.sizes import parse_age, show_bytes
    from pipeline.upkeep.gc import find, remove

    require_project()
    root = Path()
    found = find(root, only or list(Kind), parse_age(older_than))
    unneeded = [item for item in found if not item.stays]
    for item in found:
        what = "stays" if item.stays else item.kind
        typer.echo(f"{what}: {item.path}, {show_bytes(item.bytes)}: {item.why}")
    if not unneeded:
        typer.echo("nothing to free")
        return
    typer.echo(f"in all {show_bytes(sum(item.bytes for item in unneeded))}")
    if not yes and not sys.stdin.isatty():
        typer.echo("nothing was removed; `--yes` removes it")
    elif yes or typer.confirm("Remove all of it?", err=True):
        freed = sum(remove(root, item) for item in unneeded)
        typer.echo(f"{show_bytes(freed)} freed")
    else:
        typer.echo("nothing was removed")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(gc)
