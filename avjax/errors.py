"""The exception for unusable input, and the errors of disks."""

import errno

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # none is a bug


class InputError(ValueError):
    """Unusable input: a file, a flag, a config value.

    The message is one sentence that names the file or value and the remedy. Command lines print it
    as ``error: ...``, without a traceback, and exit with status 1.
    """


def short(error: Exception) -> str:
    """Returns an error's message, or the start of a library's, which may be pages long."""
    if isinstance(error, InputError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
