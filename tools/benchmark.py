"""Measures speed: ``python tools/benchmark.py SUBJECT --help``.

Subjects: step (a training step), forward (an evaluation pass), gpu (all that matters on a GPU),
input (waiting for batches), startup (from the command to the end of the first step), prepare (raw
clips to face crops), predict (from files to answers), export (exported programs beside avjax).
step, forward, startup and prepare take --against CHECKOUT to compare with another checkout.

step, forward and gpu need only JAX and Flax, and PyTorch for --reference; avjax need not be
installed.
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
        "gpu": "gpu",
        "input": "input_path",
        "startup": "startup",
        "prepare": "prepare",
        "predict": "predict",
        "export": "export",
    }.items()
}


def main(argv: list[str] | None = None) -> int:
    """Runs a subject with its flags."""
    program, *arguments = sys.argv if argv is None else argv
    if arguments and arguments[0] in SUBJECTS:
        subject = importlib.import_module(SUBJECTS[arguments[0]])
        argv = [program, *arguments[1:]]
        return cli.run(argv, subject.define_flags, subject.job, subject.__doc__)
    print((__doc__ or "").strip())
    return 0 if arguments in ([], ["--help"]) else cli.USAGE_STATUS


if __name__ == "__main__":
    sys.exit(main())
