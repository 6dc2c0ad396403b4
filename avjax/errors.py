"""The one exception that input may cause, and what the command line makes of it."""


class InputError(ValueError):
    """Input that cannot be used: a file, a flag, a config value.

    The message is one sentence that names the file or value and the remedy; command lines print it
    as ``error: ...`` without a traceback and exit with status 1.
    """
