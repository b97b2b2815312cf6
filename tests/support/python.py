"""
Python in a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import echod

ROOT = Path(echod.__file__).resolve().parents[1]


def run(code):
    """
    Run Python code in a process of its own.

    @return: what it wrote to standard output.
    """
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    if finished.returncode:
        raise AssertionError(finished.stderr)
    return finished.stdout.split()
