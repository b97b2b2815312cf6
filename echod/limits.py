"""
Limits in time: how long a connection may be silent, stalled, unfinished, or alive.

The rule of this room: no timer and no clock reading for a message.  Each connection is
looked at twice a second, and judged by what has changed since the last look; so a limit is
kept to within one look, and what is over it ends at the next.
"""

from dataclasses import dataclass

from echod.connection import Connection, Reason

LOOK_SECONDS = 0.5
"""How often the live set is looked at."""

LINGER_SECONDS = 2.0
"""
How long a connection that has been sent all it was owed, and told so by our FIN, may
take to close its own side.  Closing earlier would let the kernel answer what the
client still sends with a reset, and a reset destroys bytes that the client has not
read yet (RFC 1122 4.2.2.13, RFC 9112 9.6).
"""

FAREWELL_SECONDS = 30.0
"""How long a client that is over a limit may take for what it is still owed."""

PROXY_HEADER_SECONDS = 5.0
"""How long a proxy may take for its header."""


@dataclass(slots=True)
class Seen:
    """
    What the last look at a connection found.

    @ivar number: which connection it is, from 1.
    @ivar opened: when it was accepted.
    @ivar active: when a look last found that something had moved, or its birth.
    @ivar owed: what it was owed, and C{since} when no less.
    @ivar over: the limit because of which it was asked to end, C{farewell} when.
    """

    number: int
    opened: float
    active: float
    bytes_echoed: int = 0
    owed: tuple[int, ...] | None = None
    since: float = 0.0
    over: Reason | None = None
    farewell: float = 0.0


@dataclass(frozen=True)
class TimeLimits:
    """
    The limits, in seconds; 0 sets none.

    @ivar handshake: from accept to the end of the TLS handshake.
    @ivar idle: without a byte in either direction.
    @ivar lifetime: from accept, whatever happens.
    @ivar write: without taking anything of what is owed.
    @ivar proxy_header: from accept to the end of the PROXY header.
    """

    handshake: float = 10.0
    idle: float = 0.0
    lifetime: float = 0.0
    write: float = 30.0
    proxy_header: float = PROXY_HEADER_SECONDS

    def look(self, connection: Connection, seen: Seen, now: float) -> None:
        """
        Look at one connection, and end it if it is over a limit: politely by
        C{finish}, unless it takes nothing.
        """
        if connection.bytes_echoed != seen.bytes_echoed:
            seen.bytes_echoed, seen.active, seen.owed = connection.bytes_echoed, now, None
        if connection.ending or connection.paused:
            self._watch(connection, seen, now)
        elif connection.awaited is not None and self._is_overdue(connection, seen, now):
            connection.overdue()
            return
        if self.idle and now - seen.active >= self.idle:
            self._idle(connection, seen, now)
        if self.lifetime and now - seen.opened >= self.lifetime and seen.over is None:
            self._finish(connection, seen, now, Reason.LIFETIME)

    def _watch(self, connection: Connection, seen: Seen, now: float) -> None:
        """
        Look at a connection that is to take something before it may go on or end.
        """
        owed = connection.owed()
        if seen.over is not None and now - seen.farewell >= FAREWELL_SECONDS:
            connection.abort(seen.over)
        elif owed != seen.owed:
            seen.owed, seen.since, seen.active = owed, now, now
        elif not any(owed):
            if connection.ending and now - seen.since >= LINGER_SECONDS:
                connection.abort()
        elif self.write and now - seen.since >= self.write - LOOK_SECONDS / 2:
            # The stall began before the look that found it, and looks come a little late.
            connection.abort(Reason.WRITE_STALL)

    def _is_overdue(self, connection: Connection, seen: Seen, now: float) -> bool:
        proxied = connection.awaited is Reason.PROXY_HEADER
        limit = self.proxy_header if proxied else self.handshake
        return limit > 0 and now - seen.opened >= limit

    def _idle(self, connection: Connection, seen: Seen, now: float) -> None:
        if connection.ending or connection.awaited is not None:
            return
        owed = connection.owed()
        if any(owed) and owed != seen.owed:
            # It sends nothing, but it may be taking what is in the kernel.
            seen.owed, seen.since, seen.active = owed, now, now
        else:
            self._finish(connection, seen, now, Reason.IDLE)

    def _finish(self, connection: Connection, seen: Seen, now: float, reason: Reason) -> None:
        seen.over, seen.farewell, seen.owed = reason, now, None
        connection.finish(reason)
