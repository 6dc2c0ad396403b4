"""Times an evaluation forward pass; flags and method are those of the subject `step`.

python tools/benchmark.py forward --reference CLONE --reference_python PYTHON --batches 8,4,2
python tools/benchmark.py forward --against CHECKOUT
"""

from absl import flags
from benchmarks import step

define_flags = step.define_flags


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Measures and prints a table."""
    step.job(values, positional, "forward")
