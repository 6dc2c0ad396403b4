"""The exception for unusable input, and the errors of disks."""

import errno

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # none is a bug


class InputError(ValueError):
    """Unusable input: a file, a flag, a config value.

    The message is one sentence that names the file or value and the remedy. Command lines print it
    as ``error: ...``, without a traceback, and exit with status 1.
    """
