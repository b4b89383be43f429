"""Stops a run that is cancelled in Prefect, or whose worker is gone, within a second or two.

A worker stops the process of a cancelled run too, but it may be slow to hear of it, and a run that
`ackd run` has started has no worker. So the run looks itself.
"""

from __future__ import annotations

import contextvars
import os
import signal
import threading
from types import TracebackType
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from pipeline.dvc_runner import Runner

_EVERY_SECONDS = 1.0
# Set by a worker, and by no one else, in the process of a run.
_BY_A_WORKER = "PREFECT__FLOW_RUN_ID"


class Cancellation:
    """Watches over the flow run that enters it, and stops the runner's stages when it is cancelled.

    Attributes:
        requested: whether it was cancelled.
    """

    def __init__(self, runner: Runner) -> None:
        self.requested = False
        self._runner = runner
        self._parent = os.getppid()
        self._over = threading.Event()
        # A thread has none of the settings of the one that starts it.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=[self._watch], daemon=True)

    def __enter__(self) -> Cancellation:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()

    def _watch(self) -> None:
        run = FlowRunContext.get()
        assert run is not None
        assert run.flow_run is not None
        log = get_run_logger()
        with get_client(sync_client=True) as client:
            while not self._over.wait(_EVERY_SECONDS):
                if _BY_A_WORKER in os.environ and os.getppid() != self._parent:
                    log.error("the worker is gone, and this run stops with it")
                    # As the worker itself would have ended it.
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                try:
                    state = client.read_flow_run(UUID(str(run.flow_run.id))).state
                # A server that is restarted, or too busy to answer, cancels nothing.
                except (httpx.HTTPError, PrefectException):
                    continue
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    self.requested = True
                    log.info("cancelled: stopping every stage")
                    self._runner.stop_all()
                    return
