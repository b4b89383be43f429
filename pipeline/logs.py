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
from typing import Any

from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import flow_run

from models.errors import InputError

_VARIABLE = "ACKD_LOG"
_UNKNOWN = "<unknown>"  # what Prefect says of a run or task whose name it does not look up


class _Line(logging.Formatter):
    """What the two forms have in common: which run, stage and experiment a line belongs to.

    Args:
        run: the name of the flow run, for lines that do not tell it themselves.
        experiment: DVC's name of the experiment; None outside of one.
    """

    def __init__(self, run: str | None, experiment: str | None) -> None:
        super().__init__()
        self._run, self._experiment = run, experiment

    def describe(self, record: logging.LogRecord) -> dict[str, Any]:
        run = getattr(record, "flow_run_name", _UNKNOWN)
        stage = getattr(record, "task_name", None)
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        return {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "run": self._run if run == _UNKNOWN else run,
            "stage": getattr(record, "task_run_name", None) if stage == _UNKNOWN else stage,
            "experiment": self._experiment,
            "message": message,
        }


class JsonLine(_Line):
    """``{"time": "2026-11-25T17:40:01.123+00:00", "level": "INFO", ...}``, times in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.describe(record), ensure_ascii=False)


class TextLine(_Line):
    """``17:40:01.123 | INFO    | brave-otter | distill | what is said``, times of this place."""

    def format(self, record: logging.LogRecord) -> str:
        said = self.describe(record)
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        names = [said[key] for key in ("run", "experiment", "stage") if said[key] is not None]
        head = [f"{clock}.{record.msecs:03.0f}", f"{said['level']:<7}", *names]
        return " | ".join([*head, said["message"]])


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
            handler.setFormatter(TextLine(run, experiment))
    if place := os.environ.get(_VARIABLE):
        try:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            file = _LogFile(place, encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{_VARIABLE} is {place!r}, which cannot be written ({error.strerror});"
                " name a file in a folder that is yours"
            ) from None
        file.setFormatter(JsonLine(run, experiment))
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
