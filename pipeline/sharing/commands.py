"""The commands about releases: make one, list them, move a stage, fetch a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.signatures import KeyOption, read_key, report_unchecked

_Model = Annotated[str, typer.Argument(metavar="NAME", help="Of dvc.yaml: artifacts.")]


def release(
    name: _Model,
    version: Annotated[
        str,
        typer.Argument(metavar="VERSION", help="By semantic versioning, such as 1.2.0."),
    ],
    stage: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="For this version to have, such as prod."),
    ] = None,
) -> None:
    """Give the committed bundle a version, by which others fetch it without a clone.

    The bundle goes to the default DVC remote, and the version as a tag to the git remote. The
    version must be the bundle's own, package.version in params.yaml.
    """
    from pipeline.sharing.release import release as make_release

    remote, tags = make_release(Path(), name, version, stage)
    typer.echo(f"{name} {version.removeprefix('v')}: released")
    typer.echo(f"  bundle  on the remote {remote}")
    typer.echo(f"  tags    {', '.join(tags) or 'there already'}")


def promote(
    name: _Model,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="One that is released.")],
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="Such as prod.")],
) -> None:
    """Move a stage to a released version, an older one too."""
    from pipeline.sharing.release import promote as give_stage

    tags = give_stage(Path(), name, version, stage)
    now = f"{stage} now ({', '.join(tags)})" if tags else f"{stage} already; nothing was changed"
    typer.echo(f"{name} {version.removeprefix('v')}: {now}")


def releases(
    repository: Annotated[
        str,
        typer.Argument(
            metavar="[REPO]",
            help="A git repository, as URL or folder; this one, as far as its tags were fetched,"
            " if not given.",
        ),
    ] = ".",
) -> None:
    """List the released versions, and which stages they have."""
    from pipeline.sharing.registry import list_releases, open_registry

    with open_registry(repository) as registry:
        found = list_releases(registry)
    if not found:
        typer.echo("nothing is released; run `ackd release NAME VERSION`")
    for each in found:
        stages = f", {', '.join(each.stages)}" if each.stages else ""
        typer.echo(f"{each.name} {each.version}, {each.day}, {each.commit[:7]}{stages}")


def fetch(
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="A git repository, as URL or folder.")
    ],
    name: _Model,
    version: Annotated[
        str | None, typer.Option(help="Which; the greatest if no stage is given either.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="The version that has this stage, such as prod.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", file_okay=False, help="Where to put it.", show_default=False
        ),
    ] = Path(),
    key: KeyOption = None,
) -> None:
    """Download a released bundle by its name, without a clone, and verify it."""
    from pipeline.sharing import registry

    public = read_key(key)
    file, manifest = registry.fetch(repository, name, out, version=version, stage=stage, key=public)
    typer.echo(f"{file}: {name} {manifest['version']}, {len(manifest['files'])} files, all whole")
    if public is None:
        report_unchecked(manifest["key_id"])
