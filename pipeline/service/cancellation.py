"""Stops a run that is cancelled in Prefect, or whose worker is gone, within a second or two.

A worker stops the process of a cancelled run too, but it may be slow to notice, and a run of
`ackd run` has no worker. So the run looks itself.
"""

from __future__ import annotations

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
# Set by a worker, and by no one else, in the process of a run.
_BY_A_WORKER = "PREFECT__FLOW_RUN_ID"


@contextlib.contextmanager
def watched(runner: Runner) -> Iterator[threading.Event]:
    """Stop the runner's stages when this flow run is cancelled.

    Yields:
        What is set then.
    """
    over, cancelled = threading.Event(), threading.Event()
    # A thread has none of the settings of the one that starts it.
    context = contextvars.copy_context()
    watch = threading.Thread(
        target=context.run, args=[_watch, runner, over, cancelled, os.getppid()], daemon=True
    )
    watch.start()
    try:
        yield cancelled
    finally:
        over.set()


def _watch(runner: Runner, over: threading.Event, cancelled: threading.Event, parent: int) -> None:
    run, log = UUID(flow_run.id), get_run_logger()
    with get_client(sync_client=True) as client:
        while not over.wait(_EVERY_SECONDS):
            if _BY_A_WORKER in os.environ and os.getppid() != parent:
                log.error("the worker is gone, and this run stops with it")
                # As the worker itself would have ended it.
                os.kill(os.getpid(), signal.SIGTERM)
                return
            # A server that is restarted, or too busy to answer, cancels nothing.
            with contextlib.suppress(httpx.HTTPError, PrefectException):
                state = client.read_flow_run(run).state
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    cancelled.set()
                    log.info("cancelled: stopping every stage")
                    runner.stop_all()
                    return
