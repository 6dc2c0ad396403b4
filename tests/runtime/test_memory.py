"""Free memory, from Linux and containers."""

import pytest

from avjax.runtime import memory

LIMIT, USED, CACHED = 4096, 3000, 100


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A fake machine without any memory files."""
    for name, path in (("_MEMINFO", "meminfo"), ("_CGROUP", "cgroup"), ("_CGROUPS", "groups")):
        monkeypatch.setattr(memory, name, tmp_path / path)
    return tmp_path


def write_group(folder, limit, prefix="memory.", stat="inactive_file"):
    names = ("max", "current") if stat == "inactive_file" else ("limit_in_bytes", "usage_in_bytes")
    folder.mkdir(parents=True)
    (folder / f"{prefix}{names[0]}").write_text(f"{limit}\n")
    (folder / f"{prefix}{names[1]}").write_text(f"{USED}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{stat} {CACHED}\n")


def test_free_memory_is_unknown_without_files(system):
    assert memory.free_host_memory() is None


def test_free_memory_without_a_container(system):
    (system / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:    5 kB\n")
    assert memory.free_host_memory() == 5 * 1024


@pytest.mark.parametrize(
    ("line", "folder", "stat"),
    [
        ("0::/job/step\n", "groups/job", "inactive_file"),  # the limit is the parent's
        ("0::/\n", "groups", "inactive_file"),  # the container has its own namespace
        ("4:memory:/job\n3:cpu:/\n", "groups/memory/job", "total_inactive_file"),
    ],
)
def test_free_memory_is_limited_by_the_container(system, line, folder, stat):
    (system / "meminfo").write_text("MemAvailable:    5 kB\n")
    (system / "cgroup").write_text(line)
    write_group(system / folder, LIMIT, stat=stat)
    assert memory.free_host_memory() == LIMIT - USED + CACHED


def test_free_memory_with_a_container_without_limit(system):
    (system / "meminfo").write_text("MemAvailable:    5 kB\n")
    (system / "cgroup").write_text("0::/\n")
    write_group(system / "groups", "max")
    assert memory.free_host_memory() == 5 * 1024
