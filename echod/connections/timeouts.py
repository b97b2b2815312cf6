"""
Timeouts: how long a connection may be idle, stalled, unfinished, or open.

Invariant: no timer and no reading of a clock for each message.  Each connection is checked twice
a second, against what the check before has recorded; so a timeout is exact to the interval of
the checks, and the connection is ended by the check that finds it.
"""

from dataclasses import dataclass

from echod._util.text import Described, format_timeout
from echod.connections.connection import IConnection, Reason

CHECK_INTERVAL = 0.5
"""Seconds between two checks of a connection."""

LINGER_TIMEOUT = 2.0
"""
Seconds for which a client that has received the whole echo and our FIN may leave its own side
open.  If we closed earlier, the kernel would answer what the client still sends with a reset, and
a reset destroys bytes that the client has not read yet (RFC 1122 4.2.2.13, RFC 9112 9.6).
"""

CLOSE_TIMEOUT = 30.0
"""Seconds in which a client that is over a limit may read the rest of its echo."""

UNREAD_TIMEOUT = 1.0
"""
Seconds that are added to the timeout for a PROXY header or a TLS handshake while the kernel holds
input that the daemon has not read: then the daemon is late, not the client.  The length of both
is bounded, so this ends too.
"""

PENDING_INTERVAL = 2.0
"""
The most seconds between two checks of what is pending for an open connection, each of which is a
system call.  A stall that is found this late is still found before C{TCP_USER_TIMEOUT}.
"""

PROXY_HEADER_TIMEOUT = 5.0
"""Seconds in which a proxy has to send its header."""


PHRASES = {
    Reason.CLIENT: "closed by client",
    Reason.RESET: "reset by client",
    Reason.DRAIN: "closed because echod stops",
    Reason.ABORTED: "aborted because echod stops",
    Reason.FAULT: "ended by a fault",
    Reason.ERROR: "failed",
}
"""What people read at the end of an access record; what a timeout says has its time, too."""


@dataclass(slots=True)
class Activity:
    """
    What the last check of a connection has recorded.  All times are the reactor's, in seconds.

    @ivar number: the number of the connection, from 1.
    @ivar opened: when it was accepted.
    @ivar active: when a check last found that a byte was sent or received; at first C{opened}.
    @ivar delivered: whether the client has received all of C{bytes_echoed}.
    @ivar checked: when a check last asked for what is pending.
    @ivar pending: what was pending then; C{None} if nothing was, or before the first check.
    @ivar acknowledged: what was acknowledged then.
    @ivar echoed: the value of C{bytes_echoed} then.
    @ivar last_read: when a check last found that the client had read something, or when
        something became pending.
    @ivar grace_until: until when the connection may be late, as the daemon has not read its input.
    @ivar limit: the limit for which the connection is being closed.
    @ivar closing_since: when that began.
    """

    number: int
    opened: float
    active: float
    bytes_echoed: int = 0
    delivered: bool = True
    checked: float = 0.0
    pending: tuple[int, ...] | None = None
    acknowledged: int | None = None
    echoed: int = 0
    last_read: float = 0.0
    grace_until: float = 0.0
    limit: Reason | None = None
    closing_since: float = 0.0

    def client_reads(self, connection: IConnection, pending: tuple[int, ...], now: float) -> bool:
        """
        Record what is pending.

        A client reads if something has been acknowledged.  That is its kernel's doing, which
        holds up to its receive buffer of what the program has not read yet (C{tcp_rmem}, tcp(7)).
        After that, nothing is acknowledged until the program reads.

        @return: whether the client has read something since the last time, as far as the numbers
            show; C{True} the first time.
        """
        before, more = self.pending, self.bytes_echoed - self.echoed
        acknowledged = connection.acknowledged() if any(pending) else None
        if before is None:
            reads = True
        elif acknowledged is not None:
            reads = acknowledged != self.acknowledged
        elif more and before[-1] and pending[-1]:
            # The kernel's buffer is full, and so all that was echoed since is in the transport's.
            reads = (*pending[:-1], pending[-1] - more) != before
        else:
            # What was echoed since does not compare to what the kernel has, so it counts as a
            # sign of reading.  A client that reads nothing soon fills the kernel's buffer.
            reads = more > 0 or pending != before
        self.pending, self.acknowledged, self.echoed = pending, acknowledged, self.bytes_echoed
        if reads:
            self.last_read = self.active = now
        return reads


@dataclass(frozen=True)
class Timeouts:
    """
    The timeouts, in seconds; 0 means none.

    Input that the daemon has not read yet never counts against a client.

    @ivar handshake: from accept to the end of the TLS handshake.
    @ivar idle: without a byte in either direction.
    @ivar lifetime: from accept, in any case.
    @ivar write: while something is pending and the client reads nothing, also after its FIN.
    @ivar proxy_header: from accept to the end of the PROXY header.
    """

    handshake: float = 10.0
    idle: float = 0.0
    lifetime: float = 0.0
    write: float = 30.0
    proxy_header: float = PROXY_HEADER_TIMEOUT

    def endings(self) -> dict[str, Described]:
        """
        The words for each L{Reason}, with the phrases that people read at the end of an access
        record.
        """
        phrases = dict(PHRASES)
        for reason, phrase, seconds in (
            (Reason.IDLE_TIMEOUT, "idle for", self.idle),
            (Reason.MAX_LIFETIME, "open for", self.lifetime),
            (Reason.WRITE_TIMEOUT, "read nothing for", self.write),
        ):
            phrases[reason] = f"{phrase} {format_timeout(seconds, ' ')}"
        return {
            reason.value: Described(reason.value, phrases.get(reason, reason.value))
            for reason in Reason
        }

    def check(self, connection: IConnection, activity: Activity, now: float) -> None:
        """
        Check one connection, and end it if it is over a timeout: by C{close}, or by C{abort} if
        the client reads nothing.
        """
        if connection.ending and connection.end_if_delivered():
            return
        if connection.bytes_echoed != activity.bytes_echoed:
            activity.bytes_echoed = connection.bytes_echoed
            activity.active, activity.delivered = now, False
        if connection.ending or connection.paused:
            self._check_pending(connection, activity, now)
        elif connection.waiting_for is not None:
            if self._is_late(connection, activity, now):
                connection.timed_out()
                return
        elif not activity.delivered and self.write:
            self._check_open(connection, activity, now)
        if self.idle and now - activity.active >= self.idle:
            self._check_idle(connection, activity, now)
        if self.lifetime and now - activity.opened >= self.lifetime and activity.limit is None:
            self._close(connection, activity, now, Reason.MAX_LIFETIME)

    def _check_pending(self, connection: IConnection, activity: Activity, now: float) -> None:
        """
        Check a connection whose client has to read something before it can go on or end.
        """
        pending = connection.pending()
        if activity.limit is not None and now - activity.closing_since >= CLOSE_TIMEOUT:
            connection.abort(activity.limit)
        elif activity.client_reads(connection, pending, now):
            return
        elif any(pending):
            self._abort_stalled(connection, activity, now)
        elif connection.ending and self._has_lingered(connection, now - activity.last_read):
            connection.abort()

    def _has_lingered(self, connection: IConnection, seconds: float) -> bool:
        # The client's FIN may be among the input that is not read yet.  But a client may also
        # send without end, so there is a second bound.
        late = seconds >= LINGER_TIMEOUT and not connection.unread()
        return late or seconds >= 2 * LINGER_TIMEOUT

    def _check_open(self, connection: IConnection, activity: Activity, now: float) -> None:
        """
        Check a connection whose input is read, and whose client may read or not.
        """
        interval = min(self.write / 16, PENDING_INTERVAL)
        if activity.pending is None and now - activity.checked < interval:
            return
        pending, activity.checked = connection.pending(), now
        if not any(pending):
            activity.pending, activity.delivered = None, True
        elif not activity.client_reads(connection, pending, now):
            self._abort_stalled(connection, activity, now)

    def _abort_stalled(self, connection: IConnection, activity: Activity, now: float) -> None:
        # The stall began before the check that found it, and checks come a little late.
        if self.write and now - activity.last_read >= self.write - CHECK_INTERVAL / 2:
            connection.abort(Reason.WRITE_TIMEOUT)

    def _is_late(self, connection: IConnection, activity: Activity, now: float) -> bool:
        proxied = connection.waiting_for is Reason.PROXY_HEADER
        limit = self.proxy_header if proxied else self.handshake
        if not limit or now - activity.opened < limit or now < activity.grace_until:
            return False
        if connection.unread():
            activity.grace_until = now + UNREAD_TIMEOUT
            return False
        return True

    def _check_idle(self, connection: IConnection, activity: Activity, now: float) -> None:
        if connection.ending or connection.waiting_for is not None:
            return
        if not connection.paused and connection.unread():
            # The client has sent something, and the loop has not read it yet.
            activity.active = now
            return
        pending = connection.pending()
        # The client sends nothing, but it may be reading what the kernel holds.
        if not any(pending) or not activity.client_reads(connection, pending, now):
            self._close(connection, activity, now, Reason.IDLE_TIMEOUT)

    def _close(
        self, connection: IConnection, activity: Activity, now: float, reason: Reason
    ) -> None:
        activity.limit, activity.closing_since, activity.pending = reason, now, None
        connection.close(reason)
