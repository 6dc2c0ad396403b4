"""Sampled damages to every file that commands read."""

import damage
import pytest


@pytest.mark.slow
# Orbax leaves event loops behind where a state is damaged.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_damage_is_silent_or_unexplained(capsys):
    assert damage.main(["damage", "--tries=200"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("| all | 2")
    assert last.endswith("| 0 | 0 | 0 |")
