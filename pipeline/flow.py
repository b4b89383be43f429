"""The Prefect flow: a task for each stage of ``dvc.yaml``, run by DVC, with DVC as the only cache.

``python -m pipeline.flow`` runs it in the working directory, as ``ackd run`` does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.errors import InputError
from pipeline.dvc_runner import Runner, Stage, StageBusyError, StageError, load_graph
from pipeline.logs import start_log
from pipeline.resources import Resources
from stages.params import PARAMS_FILE, load_params

_BUSY = "Busy"
_LOCK_RETRIES = 5
_MESSAGES = {"ran": "ran", "unchanged": "unchanged", "restored": "restored from the run cache"}


def _is_busy(_task: Any, _run: Any, state: State[Any]) -> bool:
    return state.name == _BUSY


@task(
    task_run_name="{stage.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=_LOCK_RETRIES,
    retry_delay_seconds=[1, 2, 4, 8, 16],
    retry_condition_fn=_is_busy,
)
def run_stage(stage: Stage, runner: Runner, resources: Resources) -> State[Any]:
    """Bring one stage up to date; a state says what happened, so that no traceback is logged."""
    log = get_run_logger()
    try:
        with resources.hold(stage.needs) as env:
            start = time.monotonic()
            outcome = runner.repro(stage.name, log.info, env=env, timeout_s=stage.needs.timeout_s)
            seconds = time.monotonic() - start
    except StageBusyError as error:
        return Failed(name=_BUSY, message=str(error))
    except StageError as error:
        return Failed(message=str(error))
    return Completed(
        name="Completed" if outcome == "ran" else "Cached",
        message=f"{_MESSAGES[outcome]}, {seconds:.1f} s",
        data=outcome,
    )


@flow(name="compress", validate_parameters=False)
def compress(root: Path = Path()) -> State[Any]:
    """Run the chain of ``root/dvc.yaml``; independent stages run side by side.

    Returns:
        A completed state whose data lists ``stage``, ``state`` and ``message`` of every stage, or a
        failed one whose message names what failed, why, and what did not run. Where
        ``params.yaml`` or ``dvc.yaml`` is not right, it fails before anything has run.
    """
    try:
        start_log()
        load_params(root / PARAMS_FILE)
        stages = load_graph(root)
        resources = Resources.from_environment()
        resources.check({stage.name: stage.needs for stage in stages})
    except InputError as error:
        return Failed(message=str(error), data=[])
    with Runner(root) as runner:
        futures: dict[str, PrefectFuture[Any]] = {}
        for stage in stages:
            futures[stage.name] = run_stage.with_options(name=stage.name).submit(
                stage,
                runner,
                resources,
                wait_for=[futures[name] for name in stage.upstream],
                return_state=False,
            )
        # An interrupt or a termination signal arrives here; leaving the runner stops every stage.
        for future in futures.values():
            future.wait()
    states = {name: future.state for name, future in futures.items()}
    rows = [
        {
            "stage": name,
            "state": _word(state),
            "message": "" if _not_run(state) else state.message or "",
        }
        for name, state in states.items()
    ]
    create_table_artifact(key="stages", table=rows, description="The last run of the chain")
    failed = [
        f"{row['stage']} failed: {row['message']}" for row in rows if row["state"] == "Failed"
    ]
    if not failed:
        return Completed(message="all stages are up to date", data=rows)
    idle = [row["stage"] for row in rows if row["state"] == "Not run"]
    return Failed(message="; ".join([*failed, f"not run: {', '.join(idle) or 'none'}"]), data=rows)


def _not_run(state: State[Any]) -> bool:
    return state.name == "NotReady"


def _word(state: State[Any]) -> str:
    if _not_run(state):
        return "Not run"
    return str(state.name) if state.is_completed() else "Failed"


def main() -> int:
    """Run the flow here, print its table, and return the exit status."""
    try:
        state: State[Any] = compress(return_state=True)
    except KeyboardInterrupt:
        print("interrupted: every stage is stopped; `ackd run` goes on from here", file=sys.stderr)
        return 130
    rows: Any = state.result(raise_on_failure=False)
    table = Table("stage", "state", "what happened", box=None, header_style="bold")
    for row in rows:
        table.add_row(row["stage"], row["state"], escape(row["message"]))
    Console().print(table)
    if state.is_failed():
        print(f"error: {state.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
