#!/usr/bin/env python3
"""
Print what pip is to install for the unit tests on the lowest versions that pyproject.toml
allows: what echod depends on, with its metrics, and what the unit tests import besides.
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
    [(package, floor)] = re.findall(r"^([\w.-]+(?:\[\w+\])?)>=([\w.]+)(?:,<\w+)?$", requirement)
    print(f"{package}=={floor}")
