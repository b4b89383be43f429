"""The one exception for what a user can put right."""


def printable(text: str) -> str:
    """Text from elsewhere, as it may go to a terminal: what that would obey is spelt out.

    Control characters, line ends among them, and those that turn the direction of writing.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


class InputError(ValueError):
    """A mistake in what the user gave: a parameter, a file, a device.

    The message is one sentence that names the file, key or value, says what was expected and what
    to do. Entry points print it without a traceback and exit with a non-zero status.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
