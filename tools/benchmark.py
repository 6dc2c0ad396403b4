"""Measures what the README says of speed: ``python tools/benchmark.py SUBJECT --help``.

Subjects: step (a training step), forward (an evaluation pass), input (waiting for batches), startup
(from the command to the first step's end), prepare (raw clips to face crops). The first two and
startup take --against CHECKOUT: another checkout of avjax, such as the commit before, in turn.

step and forward need JAX and Flax alone, and PyTorch for --reference; avjax need not be installed.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

from peers import jaxtyping_stand_in

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if importlib.util.find_spec("jaxtyping") is None:
    jaxtyping_stand_in.install()

from avjax import cli

SUBJECTS = {
    name: f"benchmarks.{module}"
    for name, module in {
        "step": "step",
        "forward": "forward",
        "input": "input_path",
        "startup": "startup",
        "prepare": "prepare",
    }.items()
}


def main(argv: list[str] | None = None) -> int:
    """The command line: a subject, then its flags."""
    program, *rest = sys.argv if argv is None else argv
    if rest and rest[0] in SUBJECTS:
        subject = importlib.import_module(SUBJECTS[rest[0]])
        return cli.run([program, *rest[1:]], subject.define_flags, subject.job, subject.__doc__)
    print((__doc__ or "").strip())
    return 0 if rest in ([], ["--help"]) else cli.USAGE_STATUS


if __name__ == "__main__":
    sys.exit(main())
