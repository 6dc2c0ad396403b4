"""Measures the share of an epoch spent waiting for input, for each cache.

python tools/benchmark.py input --data DATA [--config configs/ia_softhard.py] [--caches none,host]

DATA is a prepared dataset. Every cache trains the same epochs in a separate process, in turn. The
share is `input_share` in metrics.jsonl. First epochs, which read clips and compile, are shown
separately.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from absl import flags
from benchmarks import sides

from avjax.errors import InputError


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    sides.define_run_flags(values)
    flags.DEFINE_list("caches", ["none", "host"], "Caches to compare.", flag_values=values)
    flags.DEFINE_integer("rounds", 3, "Repetitions; medians are shown.", 1, flag_values=values)
    flags.DEFINE_integer("epochs", 3, "Epochs, at least 2.", 2, flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Measures and prints a table."""
    sides.begin_run(values, positional)
    lines: dict[str, list[list[dict[str, float]]]] = {cache: [] for cache in values.caches}
    for number in range(values.rounds):
        for cache in values.caches:
            lines[cache].append(_epochs(values, cache))
        print(f"round {number + 1} of {values.rounds} done, load {os.getloadavg()[0]:.1f}")
    print(f"{'cache':8}{'waiting':>9}{'range':>18}{'s/epoch':>9}{'first epoch waits':>19}")
    for cache, runs in lines.items():
        later = [line for run in runs for line in run[1:]]
        shares = [line["input_share"] for line in later]
        seconds = median(line["seconds"] for line in later)
        first = median(run[0]["input_share"] for run in runs)
        spread = f"{min(shares):.2%} to {max(shares):.2%}"
        print(f"{cache:8}{median(shares):9.2%}{spread:>18}{seconds:9.2f}{first:19.2%}")


def _epochs(values: flags.FlagValues, cache: str) -> list[dict[str, float]]:
    """Trains once and returns the training lines of its metrics."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "avjax.train", *sides.run_flags(values, Path(scratch))]
        command += [f"--config.num_epochs={values.epochs}", f"--config.data.cache={cache}"]
        result = subprocess.run(
            command, capture_output=True, text=True, env=sides.environment(), cwd=sides.ROOT
        )
        if result.returncode:
            raise InputError(f"{' '.join(command[3:])} failed: {result.stderr.strip()[-300:]}")
        text = Path(scratch, "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["split"] == "train"]
