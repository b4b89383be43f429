"""The one exception for what a user can put right, and text that may be shown."""

import difflib
import sys
from collections.abc import Iterable
from io import TextIOWrapper
from unicodedata import bidirectional, category

_OBEYED = {"Cc", "Cs", "Zl", "Zp"}
_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def printable(text: str) -> str:
    """Text from elsewhere, as it may go to a terminal: what that would obey is spelt out.

    That is control characters, line ends among them, and what turns the direction of writing; bytes
    of a file's name that are not UTF-8 are spelt out too.
    """
    return "".join(map(_spelt, text))


def _spelt(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # as Python holds such a byte
        return f"\\x{code - 0xDC00:02x}"
    if category(character) in _OBEYED or bidirectional(character) in _TURNING:
        return character.encode("unicode_escape").decode()
    return character


def show_what_it_can() -> None:
    """Write ``\\xe9`` for what this terminal's encoding lacks, where Python would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class InputError(ValueError):
    """A mistake in what the user gave: a parameter, a file, a device.

    The message is one sentence that names the file, key or value, says what was expected and what
    to do. Entry points print it without a traceback and exit with a non-zero status.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """The end of a sentence about a name that does not exist: the nearest one that does.

    Where none is near, it is ``otherwise``, or else all that are known.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    # Upper and lower case are the likeliest slip where names are abbreviations.
    near = near or [other for other in known if name.lower() == other.lower()]
    near = near or [other for other in known if name in other]
    if near:
        return f"did you mean {near[0]!r}?"
    return otherwise or f"use one of {', '.join(known) or 'none'}"
