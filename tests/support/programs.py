"""
Programs that people talk to an echo server with.
"""

import os
import select
import subprocess
import time
from collections.abc import Sequence

from tests.support.daemons import PATIENCE_SECONDS


def converse(command: Sequence[str], line: bytes) -> tuple[bytes, bytes]:
    """
    Write a line to a program's input, as a person would type it, and wait until it comes back.

    @return: what the program wrote to its standard output and standard error.
    """
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            child.stdin.write(line)
            output = b""
            deadline = time.monotonic() + PATIENCE_SECONDS
            while line not in output and time.monotonic() < deadline:
                if select.select([child.stdout], [], [], 0.1)[0]:
                    piece = os.read(child.stdout.fileno(), 4096)
                    output += piece
                    if not piece:
                        break
            child.stdin.close()
        finally:
            # Not each of them ends when its input does.
            child.kill()
        return output, child.stderr.read()
