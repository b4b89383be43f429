"""The exception for user errors, and helpers to show text safely."""

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from io import TextIOWrapper
from typing import Any
from unicodedata import bidirectional, category

_OBEYED = {"Cc", "Cs", "Zl", "Zp"}
_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def printable(text: str) -> str:
    """Escape everything in untrusted text that could control a terminal.

    Escaped are control characters, including line ends, characters that change the direction of
    writing, and bytes of file names that are not UTF-8.
    """
    return "".join(map(_spelt, text))


def _spelt(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # Python's surrogates for bytes that are not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if category(character) in _OBEYED or bidirectional(character) in _TURNING:
        return character.encode("unicode_escape").decode()
    return character


def show_what_it_can() -> None:
    """Make output escape characters that the terminal's encoding lacks (``\\xe9``), not raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class InputError(ValueError):
    """A mistake in the user's input: a parameter, a file, a device.

    The message is one sentence that names the file, key or value, what was expected, and what to
    do. Entry points print it without a traceback and exit with a non-zero status.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Suggest the known name closest to a misspelt one, as the end of a sentence.

    If none is close, return ``otherwise``, or else a list of all known names.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    # With abbreviations, wrong case is the most likely mistake.
    near = near or [other for other in known if name.lower() == other.lower()]
    near = near or [other for other in known if name in other]
    if near:
        return f"did you mean {near[0]!r}?"
    return otherwise or f"use one of {', '.join(known) or 'none'}"


def explain(problem: Mapping[str, Any]) -> str:
    """Return what pydantic expected of a value, from one of its ``ValidationError.errors()``."""
    if problem["type"] == "value_error":  # of this project
        return str(problem["msg"].removeprefix("Value error, "))
    message = problem["msg"].partition(" after validation")[0]
    message = re.sub(r"^\w+ should (be |have )?", "expected ", message)
    return message[0].lower() + message[1:]
