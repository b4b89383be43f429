"""The command that runs a sweep."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.sweep.plan import Plan
    from pipeline.sweep.run import Outcome


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML of variants and seeds.")],
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would run and what is done; run nothing.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Experiments at once on this machine; if not given, as many as ACKD_GPUS lists,"
            " or 1.",
        ),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GB",
            help="Main memory (10^9 bytes) for all experiments at once on this machine: fewer than"
            " --jobs run where what they were seen to take does not fit.",
        ),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on the workers of this Dask scheduler instead, such as tcp://host:8786.",
        ),
    ] = None,
    git: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The git repository that Dask's workers clone and push to; origin if not given.",
        ),
    ] = None,
) -> None:
    """Run variants with several seeds as DVC experiments that share data, teachers and logits.

    FILE has a name, presets, variants, seeds and parameter lists: docs/how-to-sweep.md. What is
    done is skipped, and a failure does not stop the others. Ctrl-C stops all; the same command
    goes on.
    """
    from models.errors import InputError
    from pipeline.project import require_project
    from pipeline.sweep.plan import load_plan

    require_project()
    if dask is None and git is not None:
        raise InputError("--git is for the workers of --dask; leave it out")
    if dask is not None and jobs is not None:
        raise InputError(
            "--jobs is for this machine; on a cluster, the workers' --nthreads says how many"
        )
    if dask is not None and memory is not None:
        raise InputError("--memory is for this machine; leave it out, and start fewer workers")
    if memory is not None and memory <= 0:
        raise InputError(f"--memory is {memory:g}, expected GB above 0")
    planned = load_plan(file)
    if plan:
        from pipeline.sweep.estimate import show

        show(planned, _done(planned))
        return
    before = {
        number: signal.signal(number, _interrupt)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        failed = _run_on_dask(planned, dask, git) if dask else _run_here(planned, jobs, memory)
        _done(planned)  # dvc has made what was asked for, or this says what it made
    except KeyboardInterrupt:
        typer.echo(
            "interrupted: every experiment is stopped; the same command goes on from here",
            err=True,
        )
        raise typer.Exit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
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


def add_to(app: typer.Typer) -> None:
    """Make it a command of ``ackd``."""
    app.command()(sweep)


def _run_here(plan: Plan, jobs: int | None, memory_gb: float | None) -> list[Outcome]:
    from pipeline.resources import Resources
    from pipeline.sweep.local import LocalEngine, only_one
    from pipeline.sweep.run import run

    resources = Resources.from_environment()
    jobs = jobs or max(1, resources.total)
    if 0 < resources.total < jobs:
        typer.echo(f"{resources.total} at once: ACKD_GPUS lists no more GPUs")
        jobs = resources.total
    with only_one(plan.name):
        done = _done(plan)
        if len(done) == len(plan.experiments):
            return []
        measuring = [stage.name for stage in plan.stages if stage.needs.alone]
        if measuring and jobs > 1:
            typer.echo(
                f"{', '.join(measuring)}: measured beside {jobs - 1} other"
                f" experiment{'s' * (jobs > 2)}, so that times are those of a busy machine"
            )
        memory = None if memory_gb is None else memory_gb * 1e9
        engine = LocalEngine(plan.name, plan.commit, jobs, resources, memory, typer.echo)
        try:
            return run(plan, done, engine, typer.echo)
        finally:
            engine.close()


def _run_on_dask(plan: Plan, address: str, url: str | None) -> list[Outcome]:
    from models.errors import InputError
    from pipeline.git_refs import git
    from pipeline.sweep import dask as sweep_dask
    from pipeline.sweep.local import only_one
    from pipeline.sweep.run import run

    if url is None:
        try:
            url = git(Path(), "remote", "get-url", "origin")
        except InputError:
            raise InputError(
                "git has no remote origin, from which workers could clone; name one by --git"
            ) from None
    names = [experiment.name for experiment in plan.experiments]
    with only_one(plan.name):
        engine = sweep_dask.DaskEngine(address, url, plan.commit)
        try:
            sweep_dask.fetch(url, names)
            failed = run(plan, _done(plan), engine, typer.echo)
        finally:
            engine.close()
        sweep_dask.fetch(url, names)
        lost = {outcome.name for outcome in failed}
        sweep_dask.pull(url, [name for name in names if name not in lost])
    return failed


def _done(plan: Plan) -> set[str]:
    """Names of the experiments that exist; one with other settings is refused."""
    from pipeline.sweep.commits import is_done, list_experiments

    found = list_experiments()
    return {
        experiment.name
        for experiment in plan.experiments
        if is_done(plan, experiment, found.get(experiment.name, []))
    }


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
