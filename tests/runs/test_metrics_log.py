"""MetricsLog does not import PyTorch, as TensorBoard's writer would."""

import os
import subprocess
import sys

PROGRAM = """
import sys
from pathlib import Path
import avjax.train
from avjax.runs.metrics_log import MetricsLog

assert "torch" not in sys.modules
with MetricsLog(Path("run"), 1, total_clips=8, done_clips=0, bar=False) as log:
    log.end_epoch({"epoch": 1, "split": "train", "step": 1, "loss": 0.5})
assert "torch" not in sys.modules
import torch  # still possible afterwards
"""


def test_installed_torch_is_not_imported(root_dir, tmp_path):
    package = tmp_path / "packages" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("print('torch was imported')\n")
    (tmp_path / "run").mkdir()
    path = os.pathsep.join([str(tmp_path / "packages"), str(root_dir)])
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout == "torch was imported\n"  # only by the last line
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))
