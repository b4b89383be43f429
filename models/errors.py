"""The one exception for what a user can put right, and text that may be shown."""

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


class InputError(ValueError):
    """A mistake in what the user gave: a parameter, a file, a device.

    The message is one sentence that names the file, key or value, says what was expected and what
    to do. Entry points print it without a traceback and exit with a non-zero status.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
