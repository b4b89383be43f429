"""The command for sweeps: sweep."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.sweep.plan import Plan
    from pipeline.sweep.worker import Outcome


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML of variants and seeds.")],
    plan: Annotated[
        bool, typer.Option("--plan", help="Print which experiments are done and would run.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Parallel experiments on this machine; by default the number of GPUs in ACKD_GPUS,"
            " or 1.",
        ),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on the workers of this Dask scheduler, such as tcp://host:8786.",
        ),
    ] = None,
) -> None:
    """Run variants with several seeds as DVC experiments that share data, teachers and logits.

    FILE has a name, presets, variants, seeds and parameter lists: see docs/how-to-sweep.md.
    Finished experiments are skipped, and a failure does not stop the others. After Ctrl-C, the same
    command resumes.
    """
    from models.errors import InputError
    from pipeline.guard import on_stop_signals
    from pipeline.sweep.plan import load_plan

    if dask is not None and jobs is not None:
        raise InputError("--jobs is for this machine; with --dask, use `dask worker --nthreads`")
    planned = load_plan(file)
    if plan:
        _show(planned)
        return
    try:
        with on_stop_signals(signal.default_int_handler):
            failed = _run(planned, jobs, dask)
    except KeyboardInterrupt:
        typer.echo(
            "interrupted: all experiments are stopped; the same command resumes from here", err=True
        )
        raise typer.Exit(130) from None
    if failed:
        for outcome in failed:
            typer.echo(f"failed: {outcome.name}: {outcome.reason}", err=True)
        typer.echo(
            f"error: {len(failed)} of {len(planned.experiments)} experiments failed; the same"
            " command runs them again",
            err=True,
        )
        raise typer.Exit(1)
    typer.echo(f"{len(planned.experiments)} experiments; `dvc exp show` lists them")


def _show(plan: Plan) -> None:
    from pipeline.sweep.commits import done

    ready = done(plan)
    for experiment in plan.experiments:
        typer.echo(f"{experiment.name}: {'done' if experiment.name in ready else 'will run'}")
    left = len(plan.experiments) - len(ready)
    typer.echo(f"{len(plan.experiments)} experiments, {len(ready)} done, {left} to run")


def _run(plan: Plan, jobs: int | None, dask: str | None) -> list[Outcome]:
    """Run all unfinished experiments, here or on a cluster; return those that failed."""
    from pipeline.dvc_runner import dvc
    from pipeline.git_command import git
    from pipeline.sweep import cluster
    from pipeline.sweep.commits import done
    from pipeline.sweep.run import run

    url = git(Path(), "remote", "get-url", "origin") if dask else None
    names = [experiment.name for experiment in plan.experiments]
    failed: list[Outcome] = []
    with cluster.only_one(plan.name):
        if url:
            cluster.fetch(url, names)
        ready = done(plan)
        if len(ready) < len(names):
            if dask and url:
                workers = cluster.connect(plan, dask, url)
            else:
                workers = cluster.start_here(plan, jobs, typer.echo)
            with workers as started:
                failed = run(plan, ready, started, typer.echo)
        lost = {outcome.name for outcome in failed}
        if url and (taken := [name for name in names if name not in lost]):
            dvc(Path(), "exp", "pull", url, *taken)
    return failed
