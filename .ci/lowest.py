#!/usr/bin/env python3
"""
Print the requirements for the unit tests on the lowest versions that pyproject.toml allows: the
dependencies of echod with its metrics, and the packages that only the unit tests import.
"""

import re
import tomllib
from pathlib import Path

FOR_UNIT_TESTS = {"hypothesis"}

project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
tools = [each for each in extras["test"] if re.match(r"[\w.-]+", each)[0] in FOR_UNIT_TESTS]
assert len(tools) == len(FOR_UNIT_TESTS), "pyproject.toml no longer names these"
for requirement in (*project["dependencies"], *extras["metrics"], *tools):
    # A requirement of another form has no lowest version that can be told from it.
    [(package, lowest)] = re.findall(r"^([\w.-]+(?:\[\w+\])?)>=([\w.]+)(?:,<\w+)?$", requirement)
    print(f"{package}=={lowest}")
