"""
The live set: all open connections, totals of those that have ended, and how all are drained.

Invariant: nothing here is called for each message.  A connection is added when it starts and
removed when it ends; in between, L{Connections.check_timeouts} checks its timeouts.  After the
client's FIN, it ends when the client has acknowledged its whole echo, so until then it counts and
is drained.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from heapq import nlargest
from itertools import islice
from operator import itemgetter

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from echod._util.access import AccessRecord
from echod._util.text import Described, format_host
from echod._util.timers import surviving
from echod.connections.access import IAccessLog, emit_access
from echod.connections.connection import CLIENT, REFUSED, IConnection, Reason
from echod.connections.counters import ConnectionStats, Refusals
from echod.connections.timeouts import Activity, Timeouts

log = Logger(namespace="echod.connections")

SLICE = 256
"""
How many connections are checked, or ended, in one turn of the loop: this takes less than a
millisecond.
"""

PORT_LISTENERS = ("tcp", "tls")
"""The names of the listeners of C{--port} and C{--tls-port}."""

QUIET_INTERVAL = 0.5
"""Seconds without a byte after which a drain considers a connection quiet."""


class Connections:
    """
    The open connections of all listeners.

    @ivar count: returns how many are open.
    @ivar opened: how many connections there have been.
    @ivar totals: the totals of those that have ended.
    @ivar refusals: the connections that were refused.
    """

    def __init__(
        self,
        clock: IReactorTime,
        limits: Timeouts,
        access_log: IAccessLog | None,
        on_removed: Callable[[], object] | None = None,
    ):
        """
        @param limits: the timeouts of the connections.
        @param access_log: writes an access record for each connection; C{None} for no records.
        @param on_removed: called after each connection that has ended; C{None} for nothing.
        """
        self._clock = clock
        self._timeouts = limits
        self._check = surviving("checking the connections", limits.check)
        self._check_draining = surviving("draining", self._check_and_drain)
        self._access_log = access_log
        self._on_removed = on_removed
        self._endings = limits.endings()
        self._silent = replace(limits, idle=limits.proxy_header).endings()[Reason.IDLE_TIMEOUT]
        self._listeners: dict[str, Described] = {}
        self._live: dict[IConnection, Activity] = {}
        # Asked for each connection; len() of this object would call a method in Python first.
        self.count = self._live.__len__
        self._drained: Deferred[None] | None = None
        self._sweeping = False
        self.opened = 0
        self.totals = ConnectionStats()
        self.refusals = Refusals(self.describe)

    def name_listener(self, name: str, address: str) -> None:
        """
        A listener listens.  If its name says nothing but its kind, people read its address.
        """
        self._listeners[name] = Described(name, address if name in PORT_LISTENERS else name)

    def describe(self, listener: str) -> Described:
        """
        The name of a listener, for the log.
        """
        return self._listeners.get(listener) or Described(listener, listener)

    def __len__(self) -> int:
        return len(self._live)

    @property
    def bytes_echoed(self) -> int:
        """
        The bytes echoed since the start, including those of open connections.
        """
        live = sum(c.bytes_echoed for c in self._live)
        return sum(self.totals.bytes_echoed.values()) + live

    @property
    def ended(self) -> Counter[Reason]:
        """
        The number of connections that have ended, by reason.
        """
        return self.totals.by_reason()

    def live(self) -> tuple[Counter[str], Counter[str]]:
        """
        The number of open connections, and the bytes that they have echoed, by listener.
        """
        # Half the time of two Counters: this is called each second for the status page.
        figures: dict[str, list[int]] = {}
        for connection in self._live:
            found = figures.get(connection.listener)
            if found is None:
                found = figures[connection.listener] = [0, 0]
            found[0] += 1
            found[1] += connection.bytes_echoed
        return (
            Counter({name: number for name, (number, _) in figures.items()}),
            Counter({name: echoed for name, (_, echoed) in figures.items()}),
        )

    def busiest_clients(self, count: int) -> list[tuple[str, int, int]]:
        """
        The clients with the most open connections, by IP address; all clients of UNIX sockets are
        one, C{unix}.

        @return: the text of the address, the open connections, and the bytes that they have
            echoed.
        """
        figures: dict[str | None, list[int]] = {}
        for connection in self._live:
            host = getattr(connection.client, "host", None)
            found = figures.get(host)
            if found is None:
                found = figures[host] = [0, 0]
            found[0] += 1
            found[1] += connection.bytes_echoed
        most = nlargest(count, figures.items(), key=itemgetter(1))
        return [(format_host(host), number, echoed) for host, (number, echoed) in most]

    def newest(self, count: int) -> Iterator[tuple[IConnection, Activity]]:
        """
        The connections that were added last, the newest first, with their activity.
        """
        return islice(reversed(self._live.items()), count)

    def number(self, connection: IConnection) -> int:
        """
        The number of an open connection, as in its access record.
        """
        return self._live[connection].number

    def add(self, connection: IConnection) -> None:
        """
        A connection has been made.
        """
        self.opened += 1
        now = self._clock.seconds()
        self._live[connection] = Activity(self.opened, now, now)

    def replace(self, connection: IConnection, successor: IConnection) -> None:
        """
        Another protocol takes over the connection: C{successor} stands for it from now on.
        """
        self._live[successor] = self._live.pop(connection)

    def remove(self, connection: IConnection, reason: Reason, detail: str = "") -> bool:
        """
        A connection has ended.  A second call for it does nothing.

        @param detail: more about the reason, if that is a refusal or an error; free of control
            characters.
        @return: whether this was the first call.
        """
        activity = self._live.pop(connection, None)
        if activity is None:
            return False
        seconds = self._clock.seconds() - activity.opened
        listener = connection.listener
        self.totals.add(listener, reason, connection.bytes_echoed, seconds)
        if reason in REFUSED:
            self.refusals.add(listener, reason, connection.peer(), detail)
        elif self._access_log is not None:
            self._log_access(
                self._access_log, connection, activity.number, listener, seconds, reason, detail
            )
        if self._on_removed is not None:
            self._on_removed()
        if self._drained is not None and not self._live:
            drained, self._drained = self._drained, None
            drained.callback(None)
        return True

    def _log_access(
        self,
        access_log: IAccessLog,
        connection: IConnection,
        number: int,
        listener: str,
        seconds: float,
        reason: Reason,
        detail: str,
    ) -> None:
        # A load balancer checks every few seconds whether a port accepts connections.  A
        # connection that waits for its PROXY header is idle only if nothing has come.
        empty = reason is not CLIENT and (
            reason is Reason.IDLE_TIMEOUT and connection.waiting_for is Reason.PROXY_HEADER
        )
        probe = not connection.bytes_echoed and (
            reason is CLIENT or reason is Reason.RESET or empty
        )
        # Asked before anything is looked up: a record that goes nowhere costs nothing more.
        if not access_log.wants(probe):
            return
        try:
            fields = connection.log_fields()
            if reason is not CLIENT and reason is Reason.ERROR:
                fields = {"detail": detail, **fields}
            record: AccessRecord = (
                probe,
                number,
                self._listeners.get(listener) or self.describe(listener),
                connection.peer(),
                connection.bytes_echoed,
                seconds,
                self._silent if empty else self._endings[reason._value_],
                fields,
            )
            if not access_log.write(record):
                emit_access(record)
        except Exception:
            # The connection is removed all the same.
            log.failure("while logging the end of a connection", event="unhandled-error")

    def check_timeouts(self) -> None:
        """
        Check every connection, and end those that are over a timeout.
        """
        if not self._sweeping:
            self._sweeping = True
            self._for_each(self._check, self._sweep_done)

    def _sweep_done(self) -> None:
        self._sweeping = False

    def _for_each(
        self, act: Callable[[IConnection, Activity, float], None], done: Callable[[], None]
    ) -> None:
        """
        Call a function for every connection that is open now: for the first L{SLICE} at once,
        for the others in the next turns of the loop.

        @param act: it raises nothing; else the other connections would be left out.
        @param done: called after the last one.
        """
        self._next_slice(iter(list(self._live)), act, done)

    def _next_slice(
        self,
        rest: Iterator[IConnection],
        act: Callable[[IConnection, Activity, float], None],
        done: Callable[[], None],
    ) -> None:
        now, live = self._clock.seconds(), self._live
        batch = tuple(islice(rest, SLICE))
        for connection in batch:
            activity = live.get(connection)
            if activity is not None:
                act(connection, activity, now)
        if len(batch) < SLICE:
            done()
        else:
            self._clock.callLater(0, self._next_slice, rest, act, done)

    def drain(self, seconds: float) -> Deferred[None]:
        """
        End every connection: close a quiet one at once and a busy one when it becomes quiet, and
        abort after C{seconds} those that are still open.

        @return: a Deferred that fires after the end of the last one.
        """
        before = len(self._live)
        aborted_before = self._aborted()
        self._drained = Deferred()
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

        done = self._drained.addCallback(drained)
        if self._live:
            ticks.start(QUIET_INTERVAL / 2)
        else:
            self._drained = None
            done.callback(None)
        return done

    def abort_all(self) -> None:
        """
        Abort every connection.
        """
        aborted: set[IConnection] = set()

        def abort(connection: IConnection, *_: object) -> None:
            if connection not in aborted:
                aborted.add(connection)
                connection.abort(Reason.ABORTED)

        surely_abort = surviving("aborting the connections", abort)

        def abort_others() -> None:
            # A proxied connection may have been replaced since by its successor.
            if not self._live.keys() <= aborted:
                self._for_each(surely_abort, abort_others)

        abort_others()

    def _aborted(self) -> int:
        ended = self.ended
        return ended[Reason.ABORTED] + ended[Reason.WRITE_TIMEOUT]

    def _drain_tick(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._for_each(self._check_draining, self._sweep_done)

    def _check_and_drain(self, connection: IConnection, activity: Activity, now: float) -> None:
        self._timeouts.check(connection, activity, now)
        if connection.ending or connection.paused:
            return
        silent = activity.active <= now - QUIET_INTERVAL
        # If it has sent something that the loop has not read yet, it is not quiet.
        if silent and not connection.unread():
            connection.close(Reason.DRAIN)
