"""The commands for scheduled runs: server, worker, schedule."""

import os
from typing import Annotated

import typer

from models.errors import InputError
from pipeline.environment import choose_prefect_home
from pipeline.guard import run_guarded
from pipeline.prefect_server import HOST, PORT


def server(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the loopback interface.")
    ] = PORT,
) -> None:
    """Run a Prefect server, which plans and shows runs, until Ctrl-C.

    Only this machine can reach it. Its database is in PREFECT_HOME, by default ~/.prefect.
    """
    choose_prefect_home()
    # By default, the pages call the default port even if the server uses another one.
    pages = {"PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api"}
    command = ("--no-prompt", "server", "start", "--host", HOST, "--port", str(port))
    raise typer.Exit(run_guarded("prefect", *command, env={**pages, **os.environ}))


def worker() -> None:
    """Start this project's due runs until Ctrl-C, which also stops the runs.

    The server is at PREFECT_API_URL, by default that of `ackd server`. A stopped training resumes
    from its last checkpoint in the next run.
    """
    from pipeline.prefect_server import api_url
    from pipeline.service.schedule import read_pool, require_own, worker_variables

    pool, url = read_pool(), api_url()
    choose_prefect_home()
    require_own()
    typer.echo(f"a worker of the pool {pool} at {url}; Ctrl-C stops it and its runs")
    command = ("--no-prompt", "worker", "start", "--type", "process", "--pool", pool)
    env = {**os.environ, **worker_variables(), "PREFECT_API_URL": url}
    raise typer.Exit(run_guarded("prefect", *command, env=env, with_children=True))


def schedule(
    cron: Annotated[
        str | None,
        typer.Argument(
            metavar="[CRON]",
            help='Minute, hour, day, month and day of the week, such as "0 2 * * *" for 02:00'
            " every night. Without it, show the schedules.",
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Time zone, such as Europe/Berlin; by default this machine's."
        ),
    ] = None,
    clone: Annotated[
        bool,
        typer.Option(
            "--clone",
            help="Run in a fresh clone of the last commit, and push the results as a DVC"
            " experiment. By default, runs use the project's folder.",
        ),
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the schedule.")] = False,
) -> None:
    """Set, show or remove a schedule for running the chain.

    A run that is due during another one is cancelled. `ackd server` plans the runs and
    `ackd worker` starts them, so both must be running at that time.
    """
    from pipeline.service import schedule as schedules

    if (cron is not None and remove) or (cron is None and timezone is not None):
        raise InputError("give a cron expression (and its --timezone), or --remove")
    name = schedules.NAMES[clone]
    if cron is not None:
        typer.echo(schedules.set_schedule(schedules.parse_cron(cron, timezone), name))
    elif remove:
        schedules.remove(name)
        typer.echo(f"{schedules.FLOW}/{name}: removed")
    else:
        nothing = 'nothing is scheduled; `ackd schedule "0 2 * * *"` runs every night at 02:00'
        typer.echo("\n".join(schedules.list_schedules()) or nothing)
