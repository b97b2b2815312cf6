"""
The access record: what is logged about each connection that has ended.

Invariant: the values of a record are plain, and the same whether it goes out as an event or, by
L{IAccessLog}, as a line.
"""

from collections.abc import Mapping
from typing import Protocol

from twisted.logger import Logger, LogLevel

from echod._util.text import Described, PeerText

log = Logger(namespace="echod.connections")


class IAccessLog(Protocol):
    """
    Writes access records without an event for each: Twisted's way from a logger to a line takes
    longer than all that the connection cost before.
    """

    def wants(self, probe: bool) -> bool:
        """
        Whether a record goes anywhere.  Otherwise its values need not be looked up.

        @param probe: as for L{emit_access}.
        """

    def write(
        self,
        probe: bool,
        number: int,
        listener: Described,
        peer: str,
        bytes_echoed: int,
        seconds: float,
        reason: Described,
        fields: Mapping[str, str],
    ) -> bool:
        """
        Write a record.  The arguments are those of L{emit_access}.

        @return: C{False} if the record has to be emitted as an event instead.
        """


def emit_access(
    probe: bool,
    number: int,
    listener: Described,
    peer: str,
    bytes_echoed: int,
    seconds: float,
    reason: Described,
    fields: Mapping[str, str],
) -> None:
    """
    Log a record as an event.

    @param probe: whether the connection only shows that the port accepts connections, as load
        balancers check every few seconds.  It is logged as debug, others as info.
    @param number: the number of the connection, from 1.
    @param listener: the listener's name; its address is for people.
    @param peer: the client's address as text.
    @param seconds: how long the connection was open.
    @param reason: the L{Reason<echod.connections.connection.Reason>} of the end; a phrase is for
        people.
    @param fields: more about it, by name; each name is an identifier.
    """
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
        reason=reason,
        **{name: PeerText(value) for name, value in fields.items()},
    )
