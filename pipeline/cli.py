"""The command line, ``ackd``. Commands import what they need when they run, so help is fast."""

import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

from models.errors import InputError
from pipeline.comparison import commands as comparison
from pipeline.devices import commands as devices
from pipeline.environment import choose_prefect_home, prepare
from pipeline.guard import run_guarded
from pipeline.prefect_server import require_server
from pipeline.project import InProject
from pipeline.service import commands as service
from pipeline.sharing import commands as sharing
from pipeline.sweep import commands as sweep
from stages.files import read_json
from stages.formatting import some_of

_COLOURS = {"will run": "yellow", "may run": "cyan", "up to date": "green", "always runs": "none"}
# rich would turn the :CD: of a fingerprint into an emoji.
console = Console(emoji=False)


class _Commands(TyperGroup):
    """Reports a user's mistake in one sentence, with exit status 1, for all commands."""

    def invoke(self, ctx: Any) -> Any:
        prepare()
        try:
            return super().invoke(ctx)
        except InputError as error:
            problem = str(error)
        except BrokenPipeError:
            raise  # of `| head`; typer ends quietly
        except OSError as error:  # such as a full disk or a read-only folder
            problem = f"{error.filename or Path.cwd()}: {(error.strerror or str(error)).lower()}"
            if isinstance(error, PermissionError):
                problem += "; run ackd as the owner of this project"
        typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(1)


app = typer.Typer(
    cls=_Commands,
    help="From images and a big teacher to a small student on a device.\n\n"
    "The chain is in dvc.yaml and its parameters in params.yaml: choose a preset with"
    " `ackd use`, see what would run with `ackd status`, run it with `ackd run` (or"
    " `dvc repro`), and look at the result with `ackd show`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command(cls=InProject)
def use(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PRESET]...",
            help="Presets to apply, in order, such as cifar100/resnet110_resnet20"
            " methods/eskd. Without any, list all presets.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set-param",
            "-S",
            metavar="KEY=VALUE",
            help="Set a parameter after applying presets, such as distill.temperature=2."
            " May be repeated.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Source of the images, such as hf:/data/cifar100."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of the student; teacher, proxy and milestones scale in proportion."
        ),
    ] = None,
) -> None:
    """Apply presets to params.yaml, keeping its comments."""
    from pipeline import presets
    from stages.params import PARAMS_FILE

    if not names and not settings and data is None and epochs is None:
        table = Table("preset", "what it does", box=None, header_style="bold")
        for name, description in presets.list_presets().items():
            table.add_row(name, escape(description))
        console.print(table)
        return
    changes = presets.use(names or [], settings or [], source=data, epochs=epochs)
    for change in changes:
        typer.echo(change)
    done = f"{len(changes)} changed; `ackd status` shows what this reruns"
    typer.echo(f"{PARAMS_FILE}: {done if changes else 'unchanged'}")


@app.command(cls=InProject)
def run() -> None:
    """Run the chain as a Prefect flow: independent stages in parallel, unchanged ones skipped.

    Without PREFECT_API_URL it starts a temporary server on this machine, unless there is nothing to
    do. ACKD_GPUS=0,1 assigns each of those GPUs to one training at a time. Ctrl-C stops all stages.
    """
    from pipeline.dvc_runner import nothing_to_do
    from pipeline.summary import SUMMARY, show
    from stages.params import load_params

    params = load_params()
    if nothing_to_do(Path()):
        typer.echo("nothing to do: every stage is up to date")
    else:
        require_server(os.environ.get("PREFECT_API_URL"))
        choose_prefect_home()
        from stages.preflight import check  # takes seconds to import

        check(params)
        if code := run_guarded("pipeline.flow", env=os.environ):
            raise typer.Exit(code)
    if SUMMARY.exists():
        console.print()
        show(console)


@app.command(cls=InProject)
def status(
    time: Annotated[
        bool,
        typer.Option(
            "--time", help="Estimate how long each training takes by timing a few of its steps."
        ),
    ] = False,
) -> None:
    """List which stages will run and why, and what will be downloaded."""
    from pipeline.dvc_runner import load_status
    from stages.identify_inputs import main as identify_inputs
    from stages.params import load_params
    from stages.preflight import check, downloads
    from stages.prepare_data import REPORT, describe

    params = load_params()
    identify_inputs(params)  # so that DVC notices replaced inputs
    stages = load_status(Path())
    moving = [stage.name for stage in stages if stage.state in ("will run", "may run")]
    if moving:
        check(params)
    table = Table("stage", "state", "why", box=None, header_style="bold")
    for stage in stages:
        state = f"[{_COLOURS[stage.state]}]{stage.state}[/]"
        table.add_row(stage.name, state, escape(some_of(stage.reasons)))
    console.print(table)
    if REPORT.exists():
        typer.echo(f"images: {describe(read_json(REPORT))}")
    typer.echo(f"disk: {decimal(shutil.disk_usage('.').free)} are free")
    if wanted := downloads(params, moving):
        typer.echo(f"will be downloaded once: {', '.join(wanted)}")
    if time:
        from pipeline.forecast import forecast

        for line in forecast(params, moving):
            typer.echo(line)
    elif {"train_teacher", "train_proxy", "distill"} & set(moving):
        typer.echo("training: `ackd status --time` estimates how long it takes")


@app.command(cls=InProject)
def show() -> None:
    """Show the result: accuracy, size and latency of teacher, student and every export."""
    from pipeline import summary

    summary.show(console)


@app.command(cls=InProject)
def predict(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", show_default=False)],
    precision: Annotated[str, typer.Option(help="Precision of the export to use.")] = "fp32",
) -> None:
    """Classify your own pictures with the exported student."""
    from pipeline.predict import predict as answer

    typer.echo("\n".join(answer(pictures, precision)))


@app.command()
def doctor() -> None:
    """Show what this machine offers, and what each missing part prevents."""
    from pipeline.doctor import examine

    table = Table("what", "found", "without it", box=None, header_style="bold")
    for finding in examine():
        mark = "[green]yes[/]" if finding.usable else "[yellow]no[/] "
        missing = "" if finding.usable else escape(finding.missing)
        table.add_row(finding.what, f"{mark} {escape(finding.found)}", missing)
    console.print(table)


#: Commands that also run outside a project.
_ANYWHERE = {devices.probe, devices.deploy, devices.rollback, devices.deployed}
_ANYWHERE |= {sharing.fetch, service.server}
for command in (
    *(devices.profile, devices.probe, devices.deploy, devices.rollback, devices.deployed),
    *(sharing.release, sharing.fetch, comparison.compare, comparison.choose, sweep.sweep),
    *(service.server, service.worker, service.schedule),
):
    app.command(cls=TyperCommand if command in _ANYWHERE else InProject)(command)
app.add_typer(devices.keys, name="keys")

if __name__ == "__main__":
    app()
