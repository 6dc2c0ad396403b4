"""Free memory of devices and of the host."""

from pathlib import Path, PurePosixPath

import jax

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def free_device_memory() -> int | None:
    """Returns the free bytes of the fullest local device, or None if unknown."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if not all("bytes_limit" in s for s in stats):
        return None
    return min(s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats)


def free_host_memory() -> int | None:
    """Returns the bytes that this process can still allocate, or None if unknown.

    Considers the limits of control groups (containers) and the host's memory.
    """
    free = [_free_in(folder, *names) for folder, names in _limited_groups()]
    if _MEMINFO.exists():
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        free.append(1024 * int(lines["MemAvailable"].split()[0]))
    return min((f for f in free if f is not None), default=None)


def _limited_groups() -> list[tuple[Path, tuple[str, str]]]:
    """Returns this process's control groups, with the file names of their limit and usage."""
    v2, v1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    groups = []
    for line in _CGROUP.read_text().splitlines() if _CGROUP.exists() else ():
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root, names = (_CGROUPS / "memory", v1) if controllers else (_CGROUPS, v2)
        path = PurePosixPath(name.lstrip("/"))
        groups += [(root / part, names) for part in (path, *path.parents)]
    return groups


def _free_in(folder: Path, limit_name: str, usage_name: str) -> int | None:
    """Returns a control group's free bytes, including file caches, or None without a limit."""
    try:
        limit, usage = (folder / limit_name).read_text(), int((folder / usage_name).read_text())
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if not limit.strip().isdecimal():
        return None
    cached = int(lines.get("inactive_file", lines.get("total_inactive_file", 0)))
    return max(0, int(limit) - usage + cached)
