"""The exception for unusable input."""


class InputError(ValueError):
    """Unusable input: a file, a flag, a config value.

    The message is one sentence that names the file or value and the remedy. Command lines print it
    as ``error: ...``, without a traceback, and exit with status 1.
    """
