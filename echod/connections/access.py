"""
Access records as events, and the interface of the log that writes them without one.

Invariant: an event has the same values as the line that L{IAccessLog} writes.
"""

from typing import Protocol

from twisted.logger import Logger, LogLevel

from echod._util.access import AccessRecord
from echod._util.text import PeerText

log = Logger(namespace="echod.connections")


class IAccessLog(Protocol):
    """
    Writes access records without an event for each: Twisted's way from a logger to a line takes
    longer than all that the connection cost before.
    """

    def wants(self, probe: bool) -> bool:
        """
        Whether a record goes anywhere.  Otherwise its values need not be looked up.

        @param probe: as L{AccessRecord} has it.
        """

    def write(self, record: AccessRecord) -> bool:
        """
        Write a record.

        @return: C{False} if the record has to be emitted as an event instead.
        """


def emit_access(record: AccessRecord) -> None:
    """
    Log a record as an event.
    """
    probe, number, listener, peer, bytes_echoed, seconds, reason, fields = record
    log.emit(
        LogLevel.debug if probe else LogLevel.info,
        "connection {connection} of {peer} to {listener}: "
        "{bytes} bytes echoed in {seconds:.3f} s, {reason}"
        + "".join(f"; {name} {{{name}}}" for name in fields),
        event="access",
        connection=number,
        listener=listener,
        peer=PeerText(peer),
        bytes=bytes_echoed,
        seconds=seconds,
        reason=str(reason),
        **{name: PeerText(value) for name, value in fields.items()},
    )
