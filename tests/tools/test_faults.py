"""Kills and failing disks, by the tools that count what happens."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["kills.py", "--kills=3"],
        ["disk_faults.py", "--tries=3"],
    ],
)
def test_no_fault_changes_a_result(root_dir, arguments):
    """In a process of its own, which may fork."""
    command = [sys.executable, str(root_dir / "tools" / arguments[0]), *arguments[1:]]
    environment = {**os.environ, "PYTHONPATH": str(root_dir)}
    result = subprocess.run(
        [*command, "--jobs=download,train"], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n| ") >= 3
