"""A user's program that measures on an Android device instead of ``runner.py``.

It takes the arguments of ``runner.py --profile`` and prints one line of JSON; see
``docs/how-to-phone.md``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import InputError, explain
from stages.devices.commands import Finished, last_json
from stages.devices.judging import Milliseconds, Text, Timed

#: Name of the program if the URL names a folder.
PROGRAM = "runner"

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class Golden(BaseModel):
    """Parity, as :func:`stages.devices.rules.compare` returns it."""

    model_config = ConfigDict(frozen=True, strict=True)

    max_relative_error: _Finite | None
    cosine: _Finite | None
    top1_agreement: _Finite | None


class Answer(Timed):
    """The program's line of JSON; other keys are ignored."""

    runtime: Text
    samples_ms: Annotated[list[Milliseconds], Field(min_length=1)]
    golden: Golden
    peak_rss_mb: _Finite | None = None


def files_of(given: str, url: str) -> list[Path]:
    """Return the program, then other files of its folder; raises InputError if it cannot be run."""
    path = Path(given)
    program = path / PROGRAM if path.is_dir() else path
    if not program.is_file():
        raise InputError(
            f"{url}: {program}: no such file; ?runner= expects a program for the device, or a"
            f" folder with a program called {PROGRAM}"
        )
    if not os.access(program, os.X_OK):
        raise InputError(f"{url}: {program}: not executable; run `chmod +x {program}`")
    if program is path:
        return [path]
    return [program, *sorted(p for p in path.iterdir() if p.is_file() and p != program)]


def parse(finished: Finished) -> Answer:
    """Parse the program's line of JSON; raises InputError if it failed or lacks keys."""
    if finished.code:
        raise InputError(finished.reason)
    found = last_json(finished.out)
    if found is None:
        raise InputError(
            f"the runner printed {finished.out.strip()[-80:]!r}, expected one line of JSON with the"
            " keys of docs/how-to-phone.md"
        )
    try:
        return Answer.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(
            f"the runner's JSON is wrong at {key}: {explain(first)}; see docs/how-to-phone.md for"
            " its keys"
        ) from None
