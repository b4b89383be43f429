"""The commands to share results: remotes, published results, releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

remote = typer.Typer(no_args_is_help=True, help="Where results are shared: DVC's remotes.")

_RemoteName = Annotated[
    str | None,
    typer.Option(
        "--remote", metavar="NAME", help="Of the DVC remote; the default one if not given."
    ),
]
_Model = Annotated[str, typer.Argument(metavar="NAME", help="Of dvc.yaml: artifacts.")]


@remote.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it here, such as storage.")],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="A folder, s3://bucket/folder or ssh://user@host:port/folder."
        ),
    ],
    default: Annotated[
        bool,
        typer.Option("--default", help="Share there if nothing else is said; the first one is so."),
    ] = False,
    endpoint_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Of a server that speaks S3 and is not Amazon's."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The private key for ssh://, if ssh-agent has none."),
    ] = None,
    login: Annotated[
        bool,
        typer.Option(
            "--login",
            help="Ask for the access key of s3:// or the password of ssh://, and keep it in"
            " .dvc/config.local, which git ignores.",
        ),
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not write a small file there and read it back.")
    ] = False,
) -> None:
    """Set up a remote, once it was seen that it can be written to and read from.

    Credentials are taken from the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...) and from
    ssh-agent; what --key-file and --login give stays on this machine. All else is written to
    .dvc/config: commit that file, and who clones the project has the remote too.
    """
    from pipeline.project import require_project
    from pipeline.sharing import publish as sharing

    def ask(what: str) -> str:
        return str(typer.prompt(what, hide_input=True, err=True))

    require_project()
    added = sharing.add_remote(
        Path(),
        name,
        url,
        default=default,
        endpoint_url=endpoint_url,
        key_file=key_file,
        ask=ask if login else None,
        check=not no_check,
    )
    state = "not checked" if no_check else "writes and reads"
    typer.echo(f"{added.name}: {added.url}, {state}{', the default' if added.default else ''}")
    typer.echo(".dvc/config: changed; commit it, and clones have this remote too")


@remote.command(name="list")
def list_() -> None:
    """List the remotes, and whether each can be written to and read from now."""
    from pipeline.project import require_project
    from pipeline.sharing import publish as sharing

    require_project()
    checked = sharing.check_remotes(Path())
    if not checked:
        typer.echo("no remote is set up; run `ackd remote add NAME URL`")
    for found, problem in checked:
        state = "writes and reads" if problem is None else f"cannot be used: {problem}"
        default = ", the default" if found.default else ""
        alone = "" if found.shared else ", of this machine alone"
        typer.echo(f"{found.name}: {found.url}{default}{alone}, {state}")


@remote.command()
def remove(name: Annotated[str, typer.Argument(help="Of the remote.")]) -> None:
    """Forget a remote and what is secret of it; what is stored there stays."""
    from pipeline.project import require_project
    from pipeline.sharing.dvc_remotes import drop_remote

    require_project()
    drop_remote(Path(), name)
    typer.echo(f"{name}: removed; what is stored there stays")


def publish(
    name: Annotated[
        str | None,
        typer.Option(help="Of the experiment; of date and parameters if not given."),
    ] = None,
    remote_name: _RemoteName = None,
) -> None:
    """Share the present results: as an experiment, its data on the DVC remote, its name in git.

    Branches and files stay as they are. Others get it by `dvc exp pull origin NAME`.
    """
    from pipeline.project import require_project
    from pipeline.sharing import publish as sharing

    require_project()
    done = sharing.publish(Path(), name, remote_name)
    if done.unchanged:
        typer.echo(
            f"{done.name}: published already, on {done.git_remote} and {done.remote.name};"
            " nothing was sent"
        )
        return
    files = "all there already" if not done.files else f"{done.files} files sent"
    typer.echo(f"{done.name}: {'saved as an experiment' if done.saved else 'saved before'}")
    typer.echo(f"  data  {done.remote.name} ({done.remote.url}): {files}")
    typer.echo(f"  name  {done.git_remote}: {'sent' if done.sent else 'there already'}")
    typer.echo(f"others get it by `dvc exp pull {done.git_remote} {done.name}`")


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
    from pipeline.project import require_project
    from pipeline.sharing import release as registry

    require_project()
    done = registry.release(Path(), name, version, stage)
    files = "sent" if done.files else "there already"
    typer.echo(f"{name} {version.removeprefix('v')}: released")
    typer.echo(f"  bundle  {done.remote.name} ({done.remote.url}): {files}")
    typer.echo(f"  tags    {done.git_remote}: {', '.join(done.tags)}")


def promote(
    name: _Model,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="One that is released.")],
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="Such as prod.")],
) -> None:
    """Give a released version a stage, an older one too; whichever had it has it no more."""
    from pipeline.project import require_project
    from pipeline.sharing import release as registry

    require_project()
    tags = registry.promote(Path(), name, version, stage)
    told = f"{stage} now ({', '.join(tags)})" if tags else f"{stage} already; nothing was changed"
    typer.echo(f"{name} {version.removeprefix('v')}: {told}")


def releases(
    repository: Annotated[
        str,
        typer.Argument(
            metavar="[REPO]",
            help="A git repository, as URL or folder; this one if"
            " not given, as far as its tags were fetched.",
        ),
    ] = ".",
) -> None:
    """List the released versions, and which stages they have."""
    from pipeline.sharing import release as registry

    found = registry.releases(repository)
    if not found:
        typer.echo("nothing is released; run `ackd release NAME VERSION`")
    for each in found:
        stages = f", {', '.join(each.stages)}" if each.stages else ""
        typer.echo(f"{each.name} {each.version}, {each.released}, {each.commit[:7]}{stages}")


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
        Path, typer.Option(metavar="FOLDER", help="Where to put it.", show_default=False)
    ] = Path(),
    key: Annotated[
        Path | None,
        typer.Option(metavar="PUBLIC", help="The public key whose signature it must bear."),
    ] = None,
) -> None:
    """Get a released bundle by its name, without a clone, and prove that it is whole."""
    from pipeline.sharing import release as registry
    from stages.bundle.keys import read_public_key

    public = None if key is None else read_public_key(key)
    file, manifest = registry.fetch(repository, name, out, version=version, stage=stage, key=public)
    signer = manifest["key_id"]
    typer.echo(f"{file}: {name} {manifest['version']}, {len(manifest['files'])} files, all whole")
    if signer is not None and public is None:
        typer.echo(
            f"the signature by the key {signer} was not checked; name the public key by --key"
        )


def add_to(app: typer.Typer) -> None:
    """Make them commands of ``ackd``."""
    for command in (publish, release, promote, releases, fetch):
        app.command()(command)
    app.add_typer(remote, name="remote")
