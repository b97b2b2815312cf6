"""
The live set: every open connection, how many there have been, how each ended, and
how all of them come to an end together.

Invariant: nothing here is called for each message.  A connection reports its start and its end;
in between, L{Connections.check_timeouts} has the limits in time look at it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, LogLevel

from echod._util.text import PeerText
from echod._util.timers import surviving
from echod.connections.connection import REFUSED, Connection, Reason
from echod.connections.counters import ConnectionStats, Refusals
from echod.connections.timeouts import Activity, Timeouts

log = Logger(namespace="echod.connections")

SLICE = 256
"""
How many connections are looked at, or ended, in one turn of the loop: others wait for under
a millisecond.
"""

QUIET_INTERVAL = 0.5
"""How long a connection must have been silent for a drain to call it quiet."""


class Connections:
    """
    The live set of all listeners.

    @ivar opened: how many connections there have been.
    @ivar totals: of those that ended.
    @ivar refusals: those that were refused.
    @ivar on_removed: what is called when one has ended, if anybody wants to know.
    """

    on_removed: Callable[[], object] | None = None

    def __init__(self, clock: IReactorTime, limits: Timeouts, access_log: bool):
        """
        @param access_log: whether each end is logged.
        """
        self._clock = clock
        self._limits = limits
        self._access_log = access_log
        self._live: dict[Connection, Activity] = {}
        self._emptied: Deferred[None] | None = None
        self._sweeping = False
        self.opened = 0
        self.totals = ConnectionStats()
        self.refusals = Refusals()

    def __len__(self) -> int:
        return len(self._live)

    @property
    def bytes_echoed(self) -> int:
        """
        Bytes echoed since the start, those of live connections included.
        """
        live = sum(c.bytes_echoed for c in self._live)
        return self.totals.bytes_echoed.total() + live

    @property
    def ended(self) -> Counter[Reason]:
        """
        How many connections ended, by L{Reason}.
        """
        return self.totals.by_reason()

    def live(self) -> tuple[Counter[str], Counter[str]]:
        """
        How many connections there are now, and what they have echoed, by listener.
        """
        numbers: Counter[str] = Counter()
        bytes_echoed: Counter[str] = Counter()
        for connection in self._live:
            listener = connection.listener
            numbers[listener] += 1
            bytes_echoed[listener] += connection.bytes_echoed
        return numbers, bytes_echoed

    def newest(self, most: int) -> Iterator[tuple[Connection, Activity]]:
        """
        The connections that joined the live set last, and what the last look found.
        """
        return islice(reversed(self._live.items()), most)

    def add(self, connection: Connection) -> None:
        """
        A connection has been made.
        """
        self.opened += 1
        now = self._clock.seconds()
        self._live[connection] = Activity(self.opened, now, now)

    def replace(self, connection: Connection, successor: Connection) -> None:
        """
        From now on C{successor} stands for the same connection.
        """
        self._live[successor] = self._live.pop(connection)

    def remove(self, connection: Connection, reason: Reason, detail: str = "") -> bool:
        """
        A connection is gone.  Once it has been said, saying it again changes nothing.

        @param detail: more about the reason, for one that counts as a refusal or an error;
            in words, free of control characters.
        @return: whether it was there.
        """
        seen = self._live.pop(connection, None)
        if seen is None:
            return False
        lived = self._clock.seconds() - seen.opened
        self.totals.add(connection.listener, reason, connection.bytes_echoed, lived)
        if reason in REFUSED:
            self.refusals.add(connection.listener, reason, connection.peer(), detail)
        elif self._access_log:
            self._log_access(connection, seen.number, lived, reason, detail)
        if self.on_removed is not None:
            self.on_removed()
        if self._emptied is not None and not self._live:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)
        return True

    def _log_access(
        self, connection: Connection, number: int, seconds: float, reason: Reason, detail: str
    ) -> None:
        # A load balancer looks every few seconds whether a port takes connections.
        # One that waits for the PROXY header is idle when nothing has come at all.
        empty = reason is Reason.IDLE_TIMEOUT and connection.waiting_for is Reason.PROXY_HEADER
        knock = (empty or reason in (Reason.CLIENT, Reason.RESET)) and not connection.bytes_echoed
        with log.failuresHandled("while logging the end of a connection", event="unhandled-error"):
            facts = dict(connection.log_fields())
            if reason is Reason.ERROR:
                facts = {"detail": detail, **facts}
            log.emit(
                LogLevel.debug if knock else LogLevel.info,
                "connection {connection} of {peer} to {listener}: "
                "{bytes} bytes echoed in {seconds:.3f} s, {reason}"
                + "".join(f"; {name} {{{name}}}" for name in facts),
                event="access",
                connection=number,
                listener=connection.listener,
                peer=PeerText(connection.peer()),
                bytes=connection.bytes_echoed,
                seconds=seconds,
                reason=reason.value,
                **{name: PeerText(value) for name, value in facts.items()},
            )

    def check_timeouts(self) -> None:
        """
        Look at every connection, and end those that are over a limit.
        """
        if not self._sweeping:
            self._sweeping = True
            self._each(self._limits.check, self._swept)

    def _swept(self) -> None:
        self._sweeping = False

    def _each(
        self, act: Callable[[Connection, Activity, float], None], done: Callable[[], None]
    ) -> None:
        """
        Do something with every connection that there is now: with some at once, with the
        others in the next turns of the loop.

        @param done: called afterwards, whatever happens.
        """
        self._go_on(iter(list(self._live)), act, done)

    def _go_on(
        self,
        rest: Iterator[Connection],
        act: Callable[[Connection, Activity, float], None],
        done: Callable[[], None],
    ) -> None:
        now, live, left = self._clock.seconds(), self._live, SLICE
        try:
            for connection in rest:
                seen = live.get(connection)
                if seen is not None:
                    act(connection, seen, now)
                left -= 1
                if not left:
                    break
        finally:
            if left:
                done()
            else:
                self._clock.callLater(0, self._go_on, rest, act, done)

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
        ticks = LoopingCall(surviving("draining", self._drain_tick))
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
            ticks.start(QUIET_INTERVAL / 2)
        else:
            self._emptied = None
            emptied.callback(None)
        return emptied

    def abort_all(self) -> None:
        """
        End every connection at once.
        """
        aborted: set[Connection] = set()

        def abort(connection: Connection, *_: object) -> None:
            if connection not in aborted:
                aborted.add(connection)
                connection.abort(Reason.ABORTED)

        def abort_others() -> None:
            # Of a proxy's connections, some may have been replaced in the meantime.
            if not self._live.keys() <= aborted:
                self._each(abort, abort_others)

        abort_others()

    def _aborted(self) -> int:
        ended = self.ended
        return ended[Reason.ABORTED] + ended[Reason.WRITE_TIMEOUT]

    def _drain_tick(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._each(self._look_and_drain, self._swept)

    def _look_and_drain(self, connection: Connection, seen: Activity, now: float) -> None:
        self._limits.check(connection, seen, now)
        if connection.ending or connection.paused:
            return
        silent = seen.active <= now - QUIET_INTERVAL
        # Silent, or has the loop only not come round to what it sent?
        if silent and not connection.unread():
            connection.close(Reason.DRAIN)
