"""Writes the demo's raw clips: RAVDESS-named videos and sounds of synthetic actors.

python tools/make_demo_clips.py --out demo/raw
"""

import os
import sys
from pathlib import Path

from absl import flags
from demo import corpus

from avjax import cli

USAGE = "Writes RAVDESS-named raw clips of synthetic actors; keeps existing clips."


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_string("out", None, "Folder for the clips.", required=True, flag_values=values)
    flags.DEFINE_integer("actors", 12, "Number of actors, at most 24.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Random seed.", 0, flag_values=values)
    flags.DEFINE_integer(
        "clips_per_emotion", 4, "Clips per actor and emotion, at most 8.", flag_values=values
    )
    flags.DEFINE_integer(
        "processes", os.cpu_count() or 1, "Parallel processes.", 1, flag_values=values
    )


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Writes the clips."""
    names = corpus.corpus(values.actors, values.clips_per_emotion)
    out = Path(values.out)
    written = corpus.write_corpus(out, names, values.seed, values.processes, progress=True)
    print(f"{len(names)} clips in {out} ({written} new)")


if __name__ == "__main__":
    sys.exit(cli.run(None, define_flags, job, USAGE))
