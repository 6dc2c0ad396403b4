"""The exception for unusable input, and the errors of disks."""

import errno

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # none is a bug
MOST_FAULTS = 20  # of one kind that an error names


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


def shortened(faults: list[str]) -> list[str]:
    """Returns the first of many faults, and how many more there are."""
    more = len(faults) - MOST_FAULTS
    return faults[:MOST_FAULTS] + ([f"{more} more"] if more > 0 else [])
