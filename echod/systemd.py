"""
What the daemon tells the service manager: that it is ready, what it does, that it reloads
or stops, and that it is alive; by the protocol of sd_notify(3).

Invariant: nobody waits for the service manager.  What it does not take at once
is dropped, but for the last word on the daemon's state, which is told again.  Where none
has asked to be told, nothing happens at all.
"""

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IReactorTime,
)
from twisted.logger import Logger

from echod._util.text import escape
from echod._util.timers import periodic

log = Logger(namespace="echod")

STATUS_SECONDS = 3.0
"""How often the figures are looked at, and told if they have changed."""

EXTENSION_SECONDS = 10.0
"""The time to stop in that is asked for at once; asked for again when half is over."""


@dataclass(frozen=True)
class NotifyConfig:
    """
    How the service manager wants to be spoken to.

    @ivar address: its socket, as socket(2) wants it; C{None} when nobody listens.
    @ivar watchdog_seconds: how often it wants a sign of life; 0 for not at all.
    """

    address: bytes | None = None
    watchdog_seconds: float = 0.0

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], pid: int) -> "NotifyConfig":
        """
        Take what the service manager left in the environment (sd_notify(3),
        sd_watchdog_enabled(3)) out of it: what the daemon starts shall not speak for it.

        @param environ: in which it no longer stands afterwards.
        @param pid: this process; the watchdog may be meant for another.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        interval = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", "") or str(pid)
        # Of vsock: and whatever else may come, we know nothing.
        if address[:1] not in ("/", "@"):
            return cls()
        name = os.fsencode(address)
        if name.startswith(b"@"):
            name = b"\0" + name[1:]
        watchdog = int(interval) / 1e6 if interval.isdecimal() and watched == str(pid) else 0.0
        return cls(name, watchdog)


class Notifier(MultiService):
    """
    Speaks to the service manager for its owner, who starts it when all is ready, and stops
    it last.
    """

    _socket: socket.socket | None = None

    def __init__(self, clock: IReactorTime, notify: NotifyConfig, status: Callable[[], str]):
        """
        @param clock: tells monotonic time, as CLOCK_MONOTONIC does (clock_gettime(2)).
        @param status: what the daemon does now, in a line.
        """
        super().__init__()
        self._clock = clock
        self._address = notify.address
        self._status = status
        self._status_told = ""
        self._untold: tuple[str, ...] = ()
        self._stop_by = 0.0
        if self._address is not None:
            self._each(STATUS_SECONDS, self._tell_status)
            if notify.watchdog_seconds:
                # Twice as often as is asked for, as sd_watchdog_enabled(3) advises.
                self._each(notify.watchdog_seconds / 2, lambda: self._send("WATCHDOG=1"))

    def _each(self, seconds: float, action: Callable[[], object]) -> None:
        doing = "telling the service manager"
        periodic(self._clock, seconds, doing, action).setServiceParent(self)

    def privilegedStartService(self) -> None:
        """
        Connect, while the process may still see the socket: after a chroot it does not.
        """
        if self._address is None:
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect(self._address)
        except OSError as error:
            log.warn(
                "the service manager cannot be told anything: {address}: {reason}",
                event="notify-failed",
                address=escape(os.fsdecode(self._address)),
                reason=error.strerror,
            )

    def startService(self) -> None:
        """
        Say that the daemon is ready, and from now on what it does and that it lives.
        """
        if self._socket is None:
            self.privilegedStartService()
        self._tell("READY=1")
        super().startService()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """
        Say that the daemon reloads, for as long as the C{with} block takes, or until it
        stops.
        """
        self._tell("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.seconds() * 1e6)}")
        try:
            yield
        finally:
            if not self._stop_by:
                self._tell("READY=1")

    def stopping(self, seconds: float) -> None:
        """
        Say that the daemon stops, and ask for time while that may take any.

        @param seconds: how long it may take.  When it takes longer, it is for the
            service manager to end it.
        """
        self._stop_by = self._clock.seconds() + seconds
        self._tell("STOPPING=1")
        if self.running and self._address is not None:
            self._tell_status()
            self._each(EXTENSION_SECONDS / 2, self._extend)

    def stopService(self) -> Deferred[None]:
        """
        Say nothing more.

        @return: a Deferred that fires when the last timer has ended.
        """
        # What was stopped before it was ready has no timers yet.
        stopping: Deferred[Any] = super().stopService() if self.running else succeed(None)
        return stopping.addCallback(self._disconnect)

    def _disconnect(self, _: object) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _extend(self) -> None:
        if self._clock.seconds() <= self._stop_by:
            self._send(f"EXTEND_TIMEOUT_USEC={int(EXTENSION_SECONDS * 1e6)}")

    def _tell_status(self) -> None:
        if self._untold:
            self._tell(*self._untold)
        status = self._status()
        if status != self._status_told and self._send(f"STATUS={status}"):
            self._status_told = status

    def _tell(self, *state: str) -> None:
        self._untold = () if self._send(*state) else state

    def _send(self, *assignments: str) -> bool:
        if self._socket is None:
            return True
        try:
            self._socket.send("\n".join(assignments).encode())
        except OSError:
            # Full, or gone.
            return False
        return True


class StatusLine:
    """
    The figures of a daemon in a line: what it does now, and whom it has refused so far.
    """

    def __init__(self, clock: IReactorTime, totals: Callable[[], tuple[int, int, int]]):
        """
        @param totals: tells the live connections, and since the start the bytes echoed and
            the connections refused.
        """
        self._clock = clock
        self._totals = totals
        self._last: tuple[float, int] | None = None

    def __call__(self) -> str:
        live, echoed, refused = self._totals()
        now = self._clock.seconds()
        then, before = self._last or (now, echoed)
        self._last = now, echoed
        rate = (echoed - before) / (now - then) if now > then else 0.0
        connections = "connection" if live == 1 else "connections"
        return f"{live} {connections}, {format_size(rate)}/s, {refused} refused"


def format_size(size: float) -> str:
    """
    A number of bytes in words: C{0 B}, C{1.2 MiB}.
    """
    for unit in ("B", "KiB", "MiB"):
        if size < 1023.5:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


FIRST_DESCRIPTOR = 3
"""Where they begin, after standard input, output and error (C{SD_LISTEN_FDS_START})."""


@dataclass(frozen=True)
class InheritedSocket:
    """
    A socket that was handed over.

    @ivar name: C{FileDescriptorName=} of its socket unit.
    """

    name: str
    descriptor: int

    def family(self) -> int:
        """
        Its address family, as C{socket} has it.

        @raise ValueError: when it is not a listening stream socket.
        """
        try:
            looked_at = socket.socket(fileno=self.descriptor)
        except OSError as error:
            raise ValueError(
                f"descriptor {self.descriptor}: {error.strerror}; give one that is handed over"
            ) from None
        family, kind = looked_at.family, looked_at.type
        listens = looked_at.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        looked_at.detach()
        if kind != socket.SOCK_STREAM or not listens:
            raise ValueError("it accepts no streams; give its unit ListenStream= and Accept=no")
        return family


class InheritedSockets:
    """
    The sockets that were handed over and that nobody has taken yet.

    @ivar left: these.
    """

    def __init__(self, sockets: Sequence[InheritedSocket] = (), why_none: str = ""):
        """
        @param why_none: why there are none, in words; empty when none were meant for us.
        """
        self._why_none = why_none
        self._sockets = list(sockets)
        self.left = list(sockets)

    @classmethod
    def from_process(cls, pid: int, path: str = "/proc/self/environ") -> "InheritedSockets":
        """
        Read what this process was told of them when it was started.

        @param pid: this process.
        """
        try:
            environ = initial_environ(path)
        except OSError as error:
            # A process with file capabilities may not read its own (proc(5)).
            return cls(why_none=f"{path}, which tells of them, cannot be read: {error.strerror}")
        return cls.from_environment(environ, pid)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], pid: int) -> "InheritedSockets":
        """
        Read what the environment says of them.  As systemd has it, that is meant for one
        process only.

        @param pid: this process.
        """
        with suppress(KeyError, ValueError):
            meant, count = int(environ["LISTEN_PID"]), int(environ["LISTEN_FDS"])
            if meant != pid:
                return cls(
                    why_none=f"they were handed to process {meant}, and this is process {pid}; "
                    "let that process exec this one, with no shell in between"
                )
            names = environ.get("LISTEN_FDNAMES", "").split(":")
            # The name that systemd gives to what has none.
            names += ["unknown"] * (count - len(names))
            return cls(
                [
                    InheritedSocket(name or "unknown", FIRST_DESCRIPTOR + index)
                    for index, name in enumerate(names[:count])
                ]
            )
        return cls()

    def take(self, description: str) -> list[InheritedSocket]:
        """
        Take those that an endpoint string of Twisted's means: C{systemd:name=echo} all
        of that name, C{systemd:index=0} the first.  A domain, which Twisted itself asks
        for (C{systemd:INET6:name=echo}), may be there and says nothing new.

        @raise ValueError: when there are none, or they are taken already.
        """
        fields = dict(re.findall(r":(name|index)=([^:]*)", description))
        if set(fields) not in ({"name"}, {"index"}):
            raise ValueError("says no socket; give name= or index= of one that is handed over")
        name, index = fields.get("name"), fields.get("index")
        taken = [
            each
            for place, each in enumerate(self._sockets)
            if each.name == name or str(place) == index
        ]
        if not taken:
            if self._why_none:
                raise ValueError(f"no such socket was handed over: {self._why_none}")
            names = ", ".join(escape(each.name) for each in self._sockets)
            way_out = f"give one of {names}" if names else "give it to a socket unit of systemd's"
            raise ValueError(f"no such socket was handed over; {way_out}")
        if not set(taken) <= set(self.left):
            raise ValueError("another option has taken it; give each once")
        self.left = [each for each in self.left if each not in taken]
        return taken


def initial_environ(path: str = "/proc/self/environ") -> dict[str, str]:
    """
    The environment that this process was started with (proc(5)).

    In C{os.environ} nothing is left: Twisted's endpoints take C{LISTEN_PID} and
    C{LISTEN_FDS} from there when they are imported, and know no nameless sockets.

    @raise OSError: when the system does not tell.
    """
    entries = os.fsdecode(Path(path).read_bytes()).split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
