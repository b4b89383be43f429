"""The commands for devices: profile, probe, deploy, rollback, deployed, keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.project import require_project
from pipeline.signatures import KeyOption, read_key, report_unchecked

if TYPE_CHECKING:
    from pipeline.devices.deploy import State

_Device = Annotated[str, typer.Argument(metavar="DEVICE", help="local:/folder or ssh://host.")]

keys = typer.Typer(no_args_is_help=True, help="Manage the keys that sign bundles.")


def profile(
    devices: Annotated[
        list[str],
        typer.Argument(metavar="DEVICE...", help="local:, ssh://host or adb:, one or more."),
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Bundle to measure; by default artifacts/onnx."),
    ] = None,
    key: KeyOption = None,
) -> None:
    """Measure latency and parity on devices, and keep the results for the report.

    A device is local:, ssh://user@host:port/folder, of which only the host is required, or adb: for
    an Android device on the cable. Options follow, as in ssh://host?threads=1,4:
    docs/how-to-own-device.md and docs/how-to-phone.md list them.
    """
    from pipeline.devices import measure
    from pipeline.rich_tables import print_table, wide_console
    from stages.params import load_params

    settings = load_params().profile
    for measured, path in measure.measure(devices, bundle, settings, read_key(key)):
        print_table(wide_console(), measure.results(measured))
        typer.echo(f"kept  {path}; `ackd run` adds it to the report")


def probe(
    bundle: Annotated[
        Path, typer.Option(metavar="FILE", help="Bundle, an archive or a folder.")
    ] = Path("artifacts/bundle"),
    key: KeyOption = None,
    lan: Annotated[
        bool, typer.Option("--lan", help="Let other devices in this network open the page.")
    ] = False,
    https: Annotated[
        bool,
        typer.Option(
            "--https",
            help="Serve over HTTPS, which other devices require for threads, a fine clock and the"
            " GPU. The certificate is created for this run.",
        ),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; by default a free one.", show_default=False)
    ] = 0,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the device; by default from its browser's description."),
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Only install onnxruntime-web, with npm.")
    ] = False,
    install_from: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Only install onnxruntime-web, from a file of `npm pack`."
        ),
    ] = None,
) -> None:
    """Serve a page that measures the student in the browser of any phone, until Ctrl-C.

    Results are kept in reports/devices.
    """
    from pipeline.devices import probe as page
    from stages.devices.browser.probe import Reach
    from stages.params import load_params

    if install or install_from is not None:
        page.install(install_from)
        return
    require_project()
    reach = Reach(lan=lan, https=https, port=port)
    page.run(bundle, load_params().profile, reach, name, read_key(key))


def deploy(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Bundle, such as artifacts/bundle.tar.gz.")
    ],
    device: _Device,
    key: KeyOption = None,
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="Let an older version replace a newer one.")
    ] = False,
) -> None:
    """Serve a bundle on a device after verifying its files and its models' outputs there."""
    from pipeline.devices import deploy as deployment

    done = deployment.deploy(bundle, device, read_key(key), allow_downgrade=allow_downgrade)
    if done.results is None:
        typer.echo("this bundle is already served; nothing was changed")
    for result in done.results or []:
        error = result["golden"]["max_relative_error"]
        typer.echo(f"  {result['precision']}.{result['shape']}: relative error {error:.1e}")
    report_unchecked(done.unverified_key)
    _report(done.state)


def rollback(device: _Device) -> None:
    """Serve the device's previous bundle again."""
    from pipeline.devices import deploy as deployment

    _report(deployment.rollback(device))


def deployed(device: _Device) -> None:
    """Show what a device serves and verify its files; exit status 1 if they are damaged."""
    from pipeline.devices import deploy as deployment

    state = deployment.deployed(device)
    _report(state)
    if state["problem"] is not None:
        raise typer.Exit(1)


@keys.command()
def new(
    path: Annotated[
        Path | None, typer.Argument(help="Private key file; by default ~/.config/ackd/signing.key.")
    ] = None,
) -> None:
    """Create a key pair for signing bundles: a private file, and a public one for deployment."""
    from stages.bundle.keys import new_key

    if path is None:
        config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
        path = Path(config).expanduser() / "ackd" / "signing.key"
    public, key_id = new_key(path)
    typer.echo(f"key id       {key_id}")
    typer.echo(f"private key  {path}: keep it secret; ACKD_SIGNING_KEY={path} signs with it")
    typer.echo(f"public key   {public}: deploy with `ackd deploy --key {public}`")


@keys.callback()
def _keys() -> None:
    # Without a callback, typer omits the name of a single command.
    pass


def _report(state: State) -> None:
    from stages.devices.agent import key_id

    for what in ("served", "previous"):
        if (record := state[what]) is None:
            typer.echo(f"{what:<9} nothing")
            continue
        signed = f"signed with {record['key_id']}" if record["key_id"] else "no signature checked"
        typer.echo(
            f"{what:<9} {record['version']}, {record['network']}, deployed {record['deployed']},"
            f" {signed}, {record['runtime']}"
        )
    if state["key"] is not None:
        typer.echo(f"required  a signature by {key_id(state['key'])}")
    if state["served"] is not None:
        whole = state["problem"] or "as they were packaged"
        typer.echo(f"files     {state['folder']}/served: {whole}")
