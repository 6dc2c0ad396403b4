"""Measures what the README says of speed: ``python tools/benchmark.py SUBJECT --help``.

Subjects: prepare (raw clips to face crops).
"""

import sys
from types import ModuleType

from benchmarks import prepare

from avjax import cli

SUBJECTS: dict[str, ModuleType] = {"prepare": prepare}


def main(argv: list[str] | None = None) -> int:
    """The command line: a subject, then its flags."""
    program, *rest = sys.argv if argv is None else argv
    if rest and rest[0] in SUBJECTS:
        subject = SUBJECTS[rest[0]]
        return cli.run([program, *rest[1:]], subject.define_flags, subject.job, subject.__doc__)
    print((__doc__ or "").strip())
    return 0 if rest in ([], ["--help"]) else cli.USAGE_STATUS


if __name__ == "__main__":
    sys.exit(main())
