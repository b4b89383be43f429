"""The Prefect flow: one task per stage of ``dvc.yaml``, run and cached by DVC alone.

``python -m pipeline.flow`` runs it in the working directory, as ``ackd run`` does.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Completed, Failed
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.errors import InputError
from pipeline.dvc_command import RemoteError, StageBusyError, StageError
from pipeline.dvc_config import default_remote
from pipeline.dvc_runner import Runner, Stage, load_graph, load_status
from pipeline.prefect_server import require_server
from pipeline.resources import Resources, listed_gpus
from pipeline.service.artifacts import Progress, show_report
from pipeline.service.cancellation import watched
from pipeline.summary import SUMMARY
from stages.params import PARAMS_FILE, load_params

_BUSY, _UNREACHABLE = "Busy", "Unreachable"
_RETRIES: dict[str, Any] = {"retries": 5, "retry_delay_seconds": [1, 2, 4, 8, 16]}
_MESSAGES = {"ran": "ran", "unchanged": "unchanged", "restored": "restored from the run cache"}


def _may_pass(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Return whether to retry: locks are released and remotes recover, other failures persist."""
    return state.name in (_BUSY, _UNREACHABLE)


@task(
    task_run_name="{stage.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=_may_pass,
    **_RETRIES,
)
def run_stage(stage: Stage, runner: Runner, resources: Resources) -> State[Any]:
    """Bring one stage up to date; return a state, because raising would log a traceback."""
    log = get_run_logger()
    progress = Progress(stage.name, log.warning)

    def report(line: str) -> None:
        log.info(line)
        progress.see(line)

    if runner.is_settled(stage):
        return Completed(name="Cached", message=_MESSAGES["unchanged"], data="unchanged")
    try:
        with resources.hold(stage.needs) as env:
            start = time.monotonic()
            outcome = runner.repro(stage.name, report, env)
            seconds = time.monotonic() - start
    except StageError as error:
        return _failed(error)
    progress.finish()
    return Completed(
        name="Completed" if outcome == "ran" else "Cached",
        message=f"{_MESSAGES[outcome]}, {seconds:.1f} s",
        data=outcome,
    )


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=_may_pass, **_RETRIES)
def publish(root: Path, runner: Runner, name: str, done: Sequence[str]) -> State[Any]:
    """Save the results of a clone as a DVC experiment, and push it to the clone's origin.

    Metrics go to ``refs/exps`` of the git remote ``origin``, not to a branch. Data go to DVC's
    default remote if there is one; otherwise they are in the cache shared with the project.
    """
    log = get_run_logger().info
    cached = [] if default_remote(root) else ["--no-cache"]
    try:
        # Without names, dvc expects the outputs of all stages and fails if one is missing.
        runner.dvc(["exp", "save", "--force", "--name", name, *done], log)
        runner.dvc(["exp", "push", *cached, "origin", name], log)
    except StageError as error:
        return _failed(error)
    return Completed(message=f"kept as the experiment {name}")


def _failed(error: StageError) -> State[Any]:
    name = {StageBusyError: _BUSY, RemoteError: _UNREACHABLE}.get(type(error), "Failed")
    return Failed(name=name, message=str(error))


@flow(name="compress", validate_parameters=False)
def compress(root: Path = Path(), keep: bool = False) -> State[Any]:
    """Run the chain of ``root/dvc.yaml``; independent stages run in parallel.

    Args:
        root: folder of ``dvc.yaml``.
        keep: push the results to the origin of ``root`` as a DVC experiment, because ``root`` is a
            clone that is deleted afterwards.

    Returns:
        A completed state, a failed one whose message states what failed, why, and what did not run,
        or a cancelled one. Its data lists ``stage``, ``state`` and ``message`` of every stage; it
        is empty if ``params.yaml`` or ``dvc.yaml`` is invalid.
    """
    root = Path(root)
    try:
        load_params(root / PARAMS_FILE)
        stages = load_graph(root)
    except InputError as error:
        return Failed(message=str(error), data=[])
    resources = Resources(listed_gpus())
    name = f"nightly-{flow_run.scheduled_start_time.astimezone():%Y-%m-%d-%H%M}" if keep else None
    with Runner(root, _up_to_date(root)) as runner, watched(runner) as cancelled:
        futures: dict[str, PrefectFuture[Any]] = {}
        for stage in stages:
            futures[stage.name] = run_stage.with_options(name=stage.name).submit(
                stage,
                runner,
                resources,
                wait_for=[futures[name] for name in stage.upstream],
                return_state=False,
            )
        # Interrupts and termination signals arrive here; leaving the runner stops all stages.
        for future in futures.values():
            future.wait()
        states = {stage: future.state for stage, future in futures.items()}
        done = [stage for stage, state in states.items() if state.is_completed()]
        # Publish failed runs too, such as a student that misses a goal.
        if name is not None and done and not cancelled.is_set():
            states["publish"] = publish(root, runner, name, done, return_state=True)
    rows = [_row(stage, state) for stage, state in states.items()]
    create_table_artifact(key="stages", table=rows, description="The last run of the chain")
    if cancelled.is_set():
        return Cancelled(
            message="all stages are stopped; the next run resumes from here", data=rows
        )
    if "report" in done and (root / SUMMARY).exists():
        show_report(root, name)
    failed = [
        f"{row['stage']} failed: {row['message']}" for row in rows if row["state"] == "Failed"
    ]
    if not failed:
        return Completed(message="all stages are up to date", data=rows)
    idle = [row["stage"] for row in rows if row["state"] == "Not run"]
    return Failed(message="; ".join([*failed, f"not run: {', '.join(idle) or 'none'}"]), data=rows)


def _up_to_date(root: Path) -> list[str]:
    try:
        return [status.name for status in load_status(root) if status.state == "up to date"]
    except InputError as error:  # locked: each stage waits for the lock and checks its own state
        get_run_logger().info(f"{error}; each stage is checked separately")
        return []


def _row(stage: str, state: State[Any]) -> dict[str, str]:
    if state.name == "NotReady":
        return {"stage": stage, "state": "Not run", "message": ""}
    word = str(state.name) if state.is_completed() else "Failed"
    return {"stage": stage, "state": word, "message": state.message or ""}


def main() -> int:
    """Run the flow here, print its table, and return the exit status."""
    try:
        require_server(get_current_settings().api.url)
        state: State[Any] = compress(return_state=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: all stages are stopped; `ackd run` resumes from here", file=sys.stderr)
        return 130
    rows: Any = state.result(raise_on_failure=False)
    table = Table("stage", "state", "what happened", box=None, header_style="bold")
    for row in rows:
        table.add_row(row["stage"], row["state"], escape(row["message"]))
    Console(emoji=False).print(table)
    if state.is_completed():
        return 0
    print(f"error: {state.message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
