"""
Standard input, output and error, which may be closed at the start (C{>&-}) or encode ASCII only
(C{PYTHONIOENCODING}, a locale).

Invariant: once they are prepared, each accepts any text, and no socket gets descriptor 0, 1 or 2.

On the journal of systemd, a line is one entry, and begins with its priority: C{<3>} for an error,
C{<4>} for a warning (sd-daemon(3)).  The journal has the time.
"""

import io
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import IO


def prepare_standard_streams() -> None:
    """
    Open C{/dev/null} as each standard stream that was closed at the start.  Otherwise the first
    sockets get their descriptors: output goes to a peer, and twistd closes the sockets when it
    goes to the background.  And where C{sys.stderr} is C{None}, C{print} writes to standard
    output instead.

    Characters that a stream cannot encode are written as escapes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Both names: twistd replaces sys.stderr with its log, and sys.__stderr__ stays.
            stream = open(os.devnull, "w")  # noqa: SIM115 - open until the process exits
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_journal(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """
    Whether a descriptor is the connection to the journal that systemd has made for this process:
    its device and inode are those of C{JOURNAL_STREAM} (systemd.exec(5)).  The variable stays when
    a shell redirects the output.
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def print_error(text: str, priority: int = 3) -> None:
    """
    Print a line to standard error: not to C{sys.stderr}, which is the log once twistd has started.

    @param priority: that of the line in the journal (syslog(3)).
    """
    stream = sys.__stderr__
    # Where it is None, print would write to standard output.
    if stream is not None:
        with suppress(OSError, ValueError):
            journal = is_journal(stream.fileno())
            text = f"<{priority}>{text}" if journal else text
        print(text, file=stream)


def report_output_error(command: str, error: OSError, out: IO[str], err: IO[str]) -> None:
    """
    Report that standard output cannot be written: its reader has closed, or the disk is full.

    @param command: the name that the line starts with.
    """
    # If standard error fails as well, only the exit status is left.
    with suppress(OSError):
        print(f"{command}: standard output: {error.strerror}", file=err, flush=True)
    # At exit, Python flushes the buffer again and would print a traceback.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, out.fileno())
    os.close(null)
