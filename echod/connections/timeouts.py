"""
Limits in time: how long a connection may be silent, stalled, unfinished, or alive.

Invariant: no timer and no clock reading for a message.  Each connection is
looked at twice a second, and judged by what has changed since the last look; so a limit is
kept to within one look, and what is over it ends at the next.
"""

from dataclasses import dataclass

from echod.connections.connection import Connection, Reason

CHECK_INTERVAL = 0.5
"""How often the live set is looked at."""

LINGER_TIMEOUT = 2.0
"""
How long a connection that has been sent all it was owed, and told so by our FIN, may
take to close its own side.  Closing earlier would let the kernel answer what the
client still sends with a reset, and a reset destroys bytes that the client has not
read yet (RFC 1122 4.2.2.13, RFC 9112 9.6).
"""

CLOSE_TIMEOUT = 30.0
"""How long a client that is over a limit may take for what it is still owed."""

UNREAD_SECONDS = 1.0
"""
How much longer a client may take whose input waits in the kernel when its time for a PROXY
header or a TLS handshake is over: until then, it was the daemon that was late.  What either
may be long has a bound, so this comes to an end too.
"""

OWED_INTERVAL = 2.0
"""
The longest time between two looks at what an open connection is owed, each of which is a
system call.  C{TCP_USER_TIMEOUT} comes later than a stall that is found this late.
"""

PROXY_HEADER_TIMEOUT = 5.0
"""How long a proxy may take for its header."""


@dataclass(slots=True)
class Activity:
    """
    What the last look at a connection found.

    @ivar number: which connection it is, from 1.
    @ivar opened: when it was accepted.
    @ivar active: when a look last found that something had moved, or its birth.
    @ivar settled: whether the client has taken all of C{bytes_echoed}.
    @ivar asked: when it was last asked what it is owed, C{pending} the answer; C{None} when
        that was nothing, or nobody has asked.
    @ivar echoed: how many bytes had been echoed then.
    @ivar since: when the client was last found to take something, or to be owed at all.
    @ivar excused: until when it may be late, as its input had not been read in time.
    @ivar over: the limit because of which it was asked to end, C{closing_since} when.
    """

    number: int
    opened: float
    active: float
    bytes_echoed: int = 0
    settled: bool = True
    asked: float = 0.0
    pending: tuple[int, ...] | None = None
    echoed: int = 0
    since: float = 0.0
    excused: float = 0.0
    over: Reason | None = None
    closing_since: float = 0.0

    def takes(self, pending: tuple[int, ...], now: float) -> bool:
        """
        Note what the client is owed.

        @return: whether it has taken something since the last time, as far as that shows;
            the first time, it is believed to.
        """
        before, echoed = self.pending, self.bytes_echoed
        if before is None:
            takes = True
        elif echoed == self.echoed:
            takes = pending != before
        else:
            # More has been echoed, and of all that, more is no longer owed.
            takes = echoed - sum(pending) > self.echoed - sum(before)
        self.pending, self.echoed = pending, echoed
        if takes:
            self.since = self.active = now
        return takes


@dataclass(frozen=True)
class Timeouts:
    """
    The limits, in seconds; 0 sets none.

    No limit judges a client by what it has sent and the daemon has not read yet.

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
    proxy_header: float = PROXY_HEADER_TIMEOUT

    def check(self, connection: Connection, seen: Activity, now: float) -> None:
        """
        Look at one connection, and end it if it is over a limit: politely by
        C{close}, unless it takes nothing.
        """
        if connection.bytes_echoed != seen.bytes_echoed:
            seen.bytes_echoed, seen.active, seen.settled = connection.bytes_echoed, now, False
        if connection.ending or connection.paused:
            self._check_pending(connection, seen, now)
        elif connection.waiting_for is not None:
            if self._is_late(connection, seen, now):
                connection.timed_out()
                return
        elif not seen.settled and self.write:
            self._watch_open(connection, seen, now)
        if self.idle and now - seen.active >= self.idle:
            self._check_idle(connection, seen, now)
        if self.lifetime and now - seen.opened >= self.lifetime and seen.over is None:
            self._finish(connection, seen, now, Reason.MAX_LIFETIME)

    def _check_pending(self, connection: Connection, seen: Activity, now: float) -> None:
        """
        Look at a connection that is to take something before it may go on or end.
        """
        pending = connection.pending()
        if seen.over is not None and now - seen.closing_since >= CLOSE_TIMEOUT:
            connection.abort(seen.over)
        elif seen.takes(pending, now):
            return
        elif any(pending):
            self._end_stalled(connection, seen, now)
        elif connection.ending and self._has_lingered(connection, now - seen.since):
            connection.abort()

    def _has_lingered(self, connection: Connection, seconds: float) -> bool:
        # Its end may be what has not been read yet; but it may also send for ever.
        late = seconds >= LINGER_TIMEOUT and not connection.unread()
        return late or seconds >= 2 * LINGER_TIMEOUT

    def _watch_open(self, connection: Connection, seen: Activity, now: float) -> None:
        """
        Look at a connection that is read from, and that may have taken all or nothing.
        """
        if seen.pending is None and now - seen.asked < min(self.write / 16, OWED_INTERVAL):
            return
        pending, seen.asked = connection.pending(), now
        if not any(pending):
            seen.pending, seen.settled = None, True
        elif not seen.takes(pending, now):
            self._end_stalled(connection, seen, now)

    def _end_stalled(self, connection: Connection, seen: Activity, now: float) -> None:
        if self.write and now - seen.since >= self.write - CHECK_INTERVAL / 2:
            # The stall began before the look that found it, and looks come a little late.
            connection.abort(Reason.WRITE_TIMEOUT)

    def _is_late(self, connection: Connection, seen: Activity, now: float) -> bool:
        proxied = connection.waiting_for is Reason.PROXY_HEADER
        limit = self.proxy_header if proxied else self.handshake
        if not limit or now - seen.opened < limit or now < seen.excused:
            return False
        if connection.unread():
            seen.excused = now + UNREAD_SECONDS
            return False
        return True

    def _check_idle(self, connection: Connection, seen: Activity, now: float) -> None:
        if connection.ending or connection.waiting_for is not None:
            return
        if not connection.paused and connection.unread():
            # It has sent, and it is the loop that has not come round to it.
            seen.active = now
            return
        pending = connection.pending()
        # It sends nothing, but it may be taking what is in the kernel.
        if not any(pending) or not seen.takes(pending, now):
            self._finish(connection, seen, now, Reason.IDLE_TIMEOUT)

    def _finish(self, connection: Connection, seen: Activity, now: float, reason: Reason) -> None:
        seen.over, seen.closing_since, seen.pending = reason, now, None
        connection.close(reason)
