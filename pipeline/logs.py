"""The lines of a run: with time, level, run, stage and experiment, for people and for programs.

A terminal gets them as text. Where ``ACKD_LOG`` names a file, each is added to it as a JSON object
in a line of its own: ``{"time", "level", "run", "stage", "experiment", "message"}``.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import flow_run

from models.errors import InputError

_VARIABLE = "ACKD_LOG"
_UNKNOWN = "<unknown>"  # what Prefect calls a run or task whose name it does not look up


class Line(logging.Formatter):
    """``17:40:01.123 | INFO    | brave-otter | distill | message``, times of this place; or JSON.

    ``run`` names the flow run for lines that do not bear it themselves; JSON has its time in UTC.
    """

    def __init__(self, run: str | None, experiment: str | None, *, as_json: bool) -> None:
        super().__init__()
        self._run, self._experiment, self._as_json = run, experiment, as_json

    def format(self, record: logging.LogRecord) -> str:
        run = getattr(record, "flow_run_name", _UNKNOWN)
        stage = getattr(record, "task_name", None)
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        names = {
            "run": self._run if run == _UNKNOWN else run,
            "stage": getattr(record, "task_run_name", None) if stage == _UNKNOWN else stage,
            "experiment": self._experiment,
        }
        time = datetime.fromtimestamp(record.created, UTC)
        if self._as_json:
            clock = time.isoformat(timespec="milliseconds")
            head = {"time": clock, "level": record.levelname}
            return json.dumps({**head, **names, "message": message}, ensure_ascii=False)
        clock = f"{time.astimezone():%H:%M:%S}.{record.msecs:03.0f}"
        parts = [name for key in ("run", "experiment", "stage") if (name := names[key])]
        return " | ".join([clock, f"{record.levelname:<7}", *parts, message])


def start_log() -> None:
    """Give every line of this process its names; to be called in a flow.

    An earlier call's file is closed.

    Raises:
        InputError: the file of ``ACKD_LOG`` cannot be written.
    """
    run, experiment = flow_run.name, os.environ.get("DVC_EXP_NAME") or None
    stop_log()
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, PrefectConsoleHandler):
            handler.setFormatter(Line(run, experiment, as_json=False))
    if place := os.environ.get(_VARIABLE):
        try:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            file = _LogFile(place, encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{_VARIABLE} is {place!r}, which cannot be written ({error.strerror});"
                " name a file in a folder that is yours"
            ) from None
        file.setFormatter(Line(run, experiment, as_json=True))
        root.addHandler(file)


def stop_log() -> None:
    """Close the file, if there is one."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _LogFile):
            root.removeHandler(handler)
            handler.close()


class _LogFile(logging.FileHandler):
    """Told from other programs' files by its class."""
