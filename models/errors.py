"""The one exception for what a user can put right."""


class InputError(ValueError):
    """A mistake in what the user gave: a parameter, a file, a device.

    The message is one sentence that names the file, key or value, says what was expected and what
    to do. Entry points print it without a traceback and exit with a non-zero status.
    """
