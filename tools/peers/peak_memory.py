"""Peak memory of this process since `start`, measured alike on both sides of a comparison.

Starting after compilation leaves the compilers' memory out. Only Linux can reset the peak; on other
systems it is that of the whole process.
"""

import ctypes
import resource
from pathlib import Path

_PEAK = Path("/proc/self/clear_refs")


def start() -> None:
    """Returns freed memory to the system and resets the peak."""
    if _PEAK.exists():
        ctypes.CDLL(None).malloc_trim(0)
        _PEAK.write_text("5")


def bytes_since_start() -> int:
    """Returns the peak memory since `start`."""
    if _PEAK.exists():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
