"""The commands for releases: release, fetch."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.signatures import KeyOption, read_key, report_unchecked

_Model = Annotated[str, typer.Argument(metavar="NAME", help="Name under artifacts in dvc.yaml.")]


def release(
    name: _Model,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="Semantic version, such as 1.2.0.")
    ],
    stage: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Stage to assign to this version, such as prod."),
    ] = None,
) -> None:
    """Release the committed bundle, so that others can fetch it without a clone.

    Pushes the bundle to the default DVC remote, and the version as a tag to the git remote. The
    version must be the bundle's package.version in params.yaml.
    """
    from pipeline.sharing.release import release as make_release

    remote, tags = make_release(Path(), name, version, stage)
    typer.echo(f"{name} {version.removeprefix('v')}: released")
    typer.echo(f"  bundle  on the remote {remote}")
    typer.echo(f"  tags    {', '.join(tags) or 'already there'}")


def fetch(
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="Git repository, a URL or a folder.")
    ],
    name: _Model,
    version: Annotated[
        str | None, typer.Option(help="Version; by default that of --stage, or the latest.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Fetch the version with this stage, such as prod.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(metavar="FOLDER", file_okay=False, help="Target folder.", show_default=False),
    ] = Path(),
    key: KeyOption = None,
) -> None:
    """Download and verify a released bundle, without a clone."""
    from pipeline.sharing import registry

    public = read_key(key)
    file, manifest = registry.fetch(repository, name, out, version=version, stage=stage, key=public)
    typer.echo(f"{file}: {name} {manifest['version']}, {len(manifest['files'])} files verified")
    if public is None:
        report_unchecked(manifest["key_id"])
