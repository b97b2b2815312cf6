"""
The live set: every open connection, how many there have been, how each ended, and
how all of them come to an end together.

The rule of this room: nothing here is called for each message.  A connection reports
its birth and its death; in between, L{Connections.sweep} looks at it once a second
and judges by what has changed since the last look.
"""

from collections import Counter
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from echod.connection import Connection, Reason

log = Logger()

SWEEP_SECONDS = 1.0
"""How often the live set is looked at."""

QUIET_SECONDS = 0.5
"""How long a connection must have been silent for a drain to call it quiet."""

LINGER_SECONDS = 2.0
"""
How long a connection that has been sent all it was owed, and told so by our FIN, may
take to close its own side.  Closing earlier would let the kernel answer what the
client still sends with a reset, and a reset destroys bytes that the client has not
read yet (RFC 1122 4.2.2.13, RFC 9112 9.6).
"""


@dataclass(slots=True)
class _Seen:
    """
    What the last look at a connection found.

    @ivar active: when a look last found that the connection had echoed, or its birth.
    @ivar owed: what it was owed, and C{since} when no less.
    """

    number: int
    opened: float
    active: float
    bytes_echoed: int = 0
    owed: tuple[int, ...] | None = None
    since: float = 0.0


class Connections:
    """
    The live set of all listeners.

    @ivar opened: how many connections there have been.
    @ivar ended: how many of them ended, by L{Reason}.
    """

    def __init__(self, clock: IReactorTime, write_timeout: float, access_log: bool):
        """
        @param write_timeout: seconds a client may take nothing of what it is owed
            before it is aborted; 0 sets no limit.
        @param access_log: whether each end is logged.
        """
        self._clock = clock
        self._write_timeout = write_timeout
        self._access_log = access_log
        self._live: dict[Connection, _Seen] = {}
        self._emptied: Deferred[None] | None = None
        self._bytes_of_ended = 0
        self.opened = 0
        self.ended: Counter[Reason] = Counter()

    def __len__(self) -> int:
        return len(self._live)

    @property
    def bytes_echoed(self) -> int:
        """
        Bytes echoed since the start, those of live connections included.
        """
        return self._bytes_of_ended + sum(c.bytes_echoed for c in self._live)

    def add(self, connection: Connection) -> None:
        """
        A connection has been made.
        """
        self.opened += 1
        now = self._clock.seconds()
        self._live[connection] = _Seen(self.opened, now, now)

    def remove(self, connection: Connection, reason: Reason) -> None:
        """
        A connection is gone.  Once it has been said, saying it again changes nothing.
        """
        seen = self._live.pop(connection, None)
        if seen is None:
            return
        self.ended[reason] += 1
        self._bytes_of_ended += connection.bytes_echoed
        if self._access_log:
            self._log_access(connection, seen, reason)
        if self._emptied is not None and not self._live:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def _log_access(self, connection: Connection, seen: _Seen, reason: Reason) -> None:
        with log.failuresHandled("while logging the end of a connection"):
            log.info(
                "connection {connection} of {peer} to {listener}: "
                "{bytes} bytes echoed in {seconds:.3f} s, {reason}",
                event="access",
                connection=seen.number,
                listener=connection.listener,
                peer=connection.peer(),
                bytes=connection.bytes_echoed,
                seconds=self._clock.seconds() - seen.opened,
                reason=reason.value,
            )

    def sweep(self) -> None:
        """
        Look at every connection: note which have been active, and abort those that
        have taken nothing for too long.
        """
        now = self._clock.seconds()
        for connection, seen in list(self._live.items()):
            if connection.bytes_echoed != seen.bytes_echoed:
                seen.bytes_echoed, seen.active = connection.bytes_echoed, now
            if connection.paused or connection.ending:
                self._watch(connection, seen, now)
            else:
                seen.owed = None

    def _watch(self, connection: Connection, seen: _Seen, now: float) -> None:
        owed = connection.owed()
        if owed != seen.owed:
            seen.owed, seen.since = owed, now
            return
        waited = now - seen.since
        if not any(owed):
            if connection.ending and waited >= LINGER_SECONDS:
                connection.abort()
        elif self._write_timeout and waited >= self._write_timeout - SWEEP_SECONDS / 2:
            # The stall began before the look that found it, and looks come a little late.
            connection.abort(Reason.WRITE_STALL)

    def drain(self, seconds: float) -> Deferred[None]:
        """
        End every connection: the quiet ones politely and at once, the busy ones when
        they become quiet, those that are left after C{seconds} by an abort.

        @return: a Deferred that fires when the last one is gone.
        """
        before = len(self._live)
        aborted_before = self._aborted()
        self._emptied = Deferred()
        deadline = self._clock.callLater(seconds, self.abort_all)
        ticks = LoopingCall(self._drain_tick)
        ticks.clock = self._clock

        def drained(_: None) -> None:
            if ticks.running:
                ticks.stop()
            if deadline.active():
                deadline.cancel()
            aborted = self._aborted() - aborted_before
            log.info(
                "drained: {finished} connections finished, {aborted} aborted",
                event="drained",
                finished=before - aborted,
                aborted=aborted,
            )

        emptied = self._emptied.addCallback(drained)
        if self._live:
            ticks.start(QUIET_SECONDS / 2).addErrback(
                lambda failure: log.failure("while draining", failure)
            )
        else:
            self._emptied = None
            emptied.callback(None)
        return emptied

    def abort_all(self) -> None:
        """
        End every connection at once.
        """
        for connection in list(self._live):
            connection.abort(Reason.ABORTED)

    def _aborted(self) -> int:
        return self.ended[Reason.ABORTED] + self.ended[Reason.WRITE_STALL]

    def _drain_tick(self) -> None:
        self.sweep()
        quiet_since = self._clock.seconds() - QUIET_SECONDS
        for connection, seen in list(self._live.items()):
            if connection.ending or connection.paused:
                continue
            silent = seen.active <= quiet_since
            # Silent, or has the loop only not come round to what it sent?
            if silent and not connection.unread():
                connection.finish(Reason.DRAIN)
