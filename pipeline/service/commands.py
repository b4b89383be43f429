"""The commands of a run by the clock: server, worker, schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.errors import InputError
from pipeline.prefect_server import PORT


def server(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of this machine's loopback interface.")
    ] = PORT,
) -> None:
    """Run a Prefect server on this machine, until Ctrl-C: it plans the runs and shows them.

    Only this machine reaches it. Its database is in PREFECT_HOME, by default ~/.prefect.
    """
    from pipeline.environment import choose_prefect_home
    from pipeline.service.local import run_server

    choose_prefect_home(typer.echo)
    raise typer.Exit(run_server(port))


def worker() -> None:
    """Start the runs that are due, in this project, until Ctrl-C, which ends those as well.

    The server is the one at PREFECT_API_URL, by default that of `ackd server`. A training that was
    stopped goes on from its last checkpoint with the next run.
    """
    from pipeline.environment import choose_prefect_home
    from pipeline.prefect_server import api_url
    from pipeline.service.local import run_worker
    from pipeline.service.schedule import read_pool, require_own

    pool = read_pool()
    choose_prefect_home(typer.echo)
    require_own()
    typer.echo(f"a worker of the pool {pool} at {api_url()}; Ctrl-C ends it and what it runs")
    raise typer.Exit(run_worker(pool, Path()))


def schedule(
    cron: Annotated[
        str | None,
        typer.Argument(
            metavar="[CRON]",
            help='Minute, hour, day, month and day of the week, such as "0 2 * * *" for every'
            " night at two; without it, what is scheduled is shown.",
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of the hours, such as Europe/Berlin; this machine's if not given."
        ),
    ] = None,
    clone: Annotated[
        bool,
        typer.Option(
            "--clone",
            help="Run in a fresh clone of what is committed, and push the results as a DVC"
            " experiment. Without it, the runs are in the project itself.",
        ),
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Forget the schedule.")] = False,
) -> None:
    """Run the chain by the clock: set a schedule, see it, remove it.

    A run that is due while the last one goes on is cancelled. `ackd server` plans the runs and
    `ackd worker` starts them: both must be running then.
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
        nothing = 'nothing is scheduled; `ackd schedule "0 2 * * *"` sets every night at two'
        typer.echo("\n".join(schedules.list_schedules()) or nothing)
