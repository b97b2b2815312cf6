"""
The standard streams, as they may be where a process is started: closed (C{>&-}), or for ASCII
alone (C{PYTHONIOENCODING}, a locale).

Invariant: once they are prepared, each takes any text, and no socket has its number.
"""

import io
import os
import sys
from contextlib import suppress
from typing import IO


def prepare_standard_streams() -> None:
    """
    Open something in the place of each standard stream that was closed when the process
    began.  Else the first sockets get their numbers, and what is written to the stream goes to
    a peer; in the background, twistd would close what it found there.  Where Python has no
    stream, C{print} fails, or writes what is for standard error to standard output.

    A character that a stream cannot encode is written as an escape.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # As a name of the system's, too: twistd puts its log in the place of the other.
            stream = open(os.devnull, "w")  # noqa: SIM115 - until the end of the process
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def report_output_error(command: str, error: OSError, out: IO[str], err: IO[str]) -> None:
    """
    Say that standard output cannot be written: nobody reads it, or the disk is full.

    @param command: the name that the line begins with.
    """
    # Where nobody can be told, there is the status.
    with suppress(OSError):
        print(f"{command}: standard output: {error.strerror}", file=err, flush=True)
    # What is buffered would be tried again, and complained about, at exit.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, out.fileno())
    os.close(nowhere)
