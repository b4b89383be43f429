"""What a terminal cannot show must not end a program."""

from __future__ import annotations

import sys
from io import TextIOWrapper


def show_what_it_can() -> None:
    """Write ``\\xe9`` for what this terminal's encoding lacks, where Python would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
