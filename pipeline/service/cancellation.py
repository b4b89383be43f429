"""Stops a run within seconds if it is cancelled in Prefect or its worker is gone.

A worker also stops a cancelled run, but may notice late, and `ackd run` has no worker. Therefore
the run polls its own state.
"""

import contextlib
import contextvars
import os
import signal
import threading
from collections.abc import Iterator
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from pipeline.dvc_runner import Runner

_EVERY_SECONDS = 1.0
# Only workers set this in the process of a run.
_BY_A_WORKER = "PREFECT__FLOW_RUN_ID"


@contextlib.contextmanager
def watched(runner: Runner) -> Iterator[threading.Event]:
    """Stop the runner's stages when this flow run is cancelled; yield an event that is then set."""
    over, cancelled = threading.Event(), threading.Event()
    # Threads do not inherit Prefect's settings.
    context = contextvars.copy_context()
    given = [_watch, runner, over, cancelled, os.getppid()]
    threading.Thread(target=context.run, args=given, daemon=True).start()
    try:
        yield cancelled
    finally:
        over.set()


def _watch(runner: Runner, over: threading.Event, cancelled: threading.Event, parent: int) -> None:
    run, log = UUID(flow_run.id), get_run_logger()
    with get_client(sync_client=True) as client:
        while not over.wait(_EVERY_SECONDS):
            if _BY_A_WORKER in os.environ and os.getppid() != parent:
                log.error("the worker is gone; stopping this run")
                # The signal that a worker sends to stop a run.
                os.kill(os.getpid(), signal.SIGTERM)
                return
            # Ignore a server that is restarting or too busy to answer.
            with contextlib.suppress(httpx.HTTPError, PrefectException):
                state = client.read_flow_run(run).state
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    cancelled.set()
                    log.info("cancelled: stopping every stage")
                    runner.stop_all()
                    return
