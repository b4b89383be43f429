"""The commands about releases: make one, fetch its bundle."""

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
