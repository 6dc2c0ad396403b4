"""The list of licences."""

import re
from importlib.metadata import requires

from tools import licences


def test_every_dependency_is_listed_with_a_licence():
    listed = {package.name: package for package in licences.packages("avjax")}
    needed = {re.match(r"[\w.-]+", line)[0] for line in requires("avjax") if "extra ==" not in line}
    assert {name.lower().replace("_", "-") for name in needed} <= listed.keys()
    assert "jaxlib" in listed  # which jax requires
    assert [package for package in listed.values() if package.licence == "not stated"] == []
    assert listed["av"].licence == "BSD-3-Clause"


def test_extras_are_listed_if_asked_for(capsys):
    assert "ruff" not in {package.name for package in licences.packages("avjax")}
    assert "ruff" in {package.name for package in licences.packages("avjax", ("dev",))}
