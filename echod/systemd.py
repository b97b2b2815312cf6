"""
The two protocols of systemd.  With sd_notify(3), L{Notifier} tells the service manager that the
daemon is ready, reloads, stops and is alive, and a L{StatusLine} of what it does.  With
sd_listen_fds(3), L{InheritedSockets} are the listening sockets that a socket unit hands over.

Invariant: the daemon never waits for the service manager.  A message that the socket does not take
at once is dropped; only the last message about the state is sent again.  Without a service manager,
no timer runs.
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
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from echod._util.text import escape, format_size
from echod._util.timers import periodic

log = Logger(namespace="echod")

STATUS_INTERVAL = 3.0
"""How often, in seconds, the status line is made, and sent if it has changed."""

TIMEOUT_EXTENSION = 10.0
"""How many seconds EXTEND_TIMEOUT_USEC= asks for; asked again after half of them."""

FIRST_DESCRIPTOR = 3
"""The first descriptor that is handed over (C{SD_LISTEN_FDS_START} of sd_listen_fds(3))."""


@dataclass(frozen=True)
class NotifyConfig:
    """
    How the service manager wants to be notified.

    @ivar address: the address of its UNIX socket; C{None} without a service manager.
    @ivar watchdog_seconds: the timeout of its watchdog; 0 for no watchdog.
    """

    address: bytes | None = None
    watchdog_seconds: float = 0.0

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], pid: int) -> "NotifyConfig":
        """
        Take the variables of sd_notify(3) and sd_watchdog_enabled(3) out of the environment, so
        that the processes that the daemon starts do not notify for it.

        @param environ: the variables are removed from it.
        @param pid: this process; the watchdog may be for another one.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        interval = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", "") or str(pid)
        # Other addresses, such as vsock:, are not supported.
        if address[:1] not in ("/", "@"):
            return cls()
        name = os.fsencode(address)
        if name.startswith(b"@"):
            name = b"\0" + name[1:]
        watchdog = int(interval) / 1e6 if interval.isdecimal() and watched == str(pid) else 0.0
        return cls(name, watchdog)


class Notifier(MultiService):
    """
    Notifies the service manager.  Its start says that the daemon is ready, so it starts last; it
    also stops last.
    """

    _socket: socket.socket | None = None

    def __init__(self, clock: IReactorTime, notify: NotifyConfig, status: Callable[[], str]):
        """
        @param clock: its C{seconds} are those of CLOCK_MONOTONIC (clock_gettime(2)).
        @param status: makes the status line.
        """
        super().__init__()
        self._clock = clock
        self._address = notify.address
        self._status = status
        self._status_sent = ""
        self._unsent: tuple[str, ...] = ()
        self._stop_by = 0.0
        if self._address is not None:
            self._each(STATUS_INTERVAL, self._send_status)
            if notify.watchdog_seconds:
                # Twice in each timeout, as sd_watchdog_enabled(3) recommends.
                self._each(notify.watchdog_seconds / 2, lambda: self._send("WATCHDOG=1"))

    def _each(self, seconds: float, action: Callable[[], object]) -> None:
        doing = "telling the service manager"
        periodic(self._clock, seconds, doing, action).setServiceParent(self)

    def privilegedStartService(self) -> None:
        """
        Connect now, because a process cannot reach the socket after a chroot.
        """
        if self._address is None:
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect(self._address)
        except OSError as error:
            log.warn(
                "cannot notify the service manager: {address}: {reason}",
                event="notify-failed",
                address=escape(os.fsdecode(self._address)),
                reason=error.strerror,
            )

    def startService(self) -> None:
        """
        Send READY=1, and from now on the status line and the signs of life.
        """
        if self._socket is None:
            self.privilegedStartService()
        self._send_state("READY=1")
        super().startService()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """
        Send RELOADING=1 now, and READY=1 after the C{with} block, unless a stop has begun.
        """
        self._send_state("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.seconds() * 1e6)}")
        try:
            yield
        finally:
            if not self._stop_by:
                self._send_state("READY=1")

    def stopping(self, seconds: float) -> None:
        """
        Send STOPPING=1, and ask for more time again and again.

        @param seconds: how long the stop may take.  After this time no more is asked for, and the
            service manager may kill the daemon.
        """
        self._stop_by = self._clock.seconds() + seconds
        self._send_state("STOPPING=1")
        if self.running and self._address is not None:
            self._send_status()
            self._each(TIMEOUT_EXTENSION / 2, self._extend)

    def stopService(self) -> Deferred[None]:
        """
        Send nothing more.

        @return: a Deferred that fires when the timers have stopped.
        """
        # Before the start there are no timers to stop.
        stopping: Deferred[Any] = super().stopService() if self.running else succeed(None)
        return stopping.addCallback(self._disconnect)

    def _disconnect(self, _: object) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _extend(self) -> None:
        if self._clock.seconds() <= self._stop_by:
            self._send(f"EXTEND_TIMEOUT_USEC={int(TIMEOUT_EXTENSION * 1e6)}")

    def _send_status(self) -> None:
        if self._unsent:
            self._send_state(*self._unsent)
        status = self._status()
        if status != self._status_sent and self._send(f"STATUS={status}"):
            self._status_sent = status

    def _send_state(self, *state: str) -> None:
        self._unsent = () if self._send(*state) else state

    def _send(self, *assignments: str) -> bool:
        if self._socket is None:
            return True
        try:
            self._socket.send("\n".join(assignments).encode())
        except OSError:
            # Its buffer is full, or it has gone.
            return False
        return True


class StatusLine:
    """
    Makes the status line: live connections, bytes a second, and refused connections.
    """

    def __init__(self, clock: IReactorTime, totals: Callable[[], tuple[int, int, int]]):
        """
        @param totals: returns the live connections, and the bytes echoed and the connections
            refused since the start.
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


@dataclass(frozen=True)
class InheritedSocket:
    """
    A listening socket that the service manager has handed over.

    @ivar name: C{FileDescriptorName=} of its socket unit (systemd.socket(5)).
    """

    name: str
    descriptor: int

    def family(self) -> int:
        """
        Its address family, such as C{socket.AF_INET}.

        @raise ValueError: if it is not a listening stream socket.
        """
        try:
            handed = socket.socket(fileno=self.descriptor)
        except OSError as error:
            raise ValueError(
                f"descriptor {self.descriptor}: {error.strerror}; give one that is handed over"
            ) from None
        family, kind = handed.family, handed.type
        listens = handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        handed.detach()
        if kind != socket.SOCK_STREAM or not listens:
            raise ValueError("it accepts no streams; give its unit ListenStream= and Accept=no")
        return family


class InheritedSockets:
    """
    The sockets that the service manager has handed over.

    @ivar left: those that no endpoint has taken yet.
    """

    def __init__(self, sockets: Sequence[InheritedSocket] = (), why_none: str = ""):
        """
        @param why_none: why this process has none, as text; empty if no reason is known.
        """
        self._why_none = why_none
        self._sockets = list(sockets)
        self.left = list(sockets)

    @classmethod
    def from_process(cls, pid: int, path: str = "/proc/self/environ") -> "InheritedSockets":
        """
        Find the sockets by the environment that this process was started with.

        @param pid: this process.
        """
        try:
            environ = initial_environ(path)
        except OSError as error:
            # A process with file capabilities may not read its own environ (proc(5)).
            return cls(why_none=f"{path}, which tells of them, cannot be read: {error.strerror}")
        return cls.from_environment(environ, pid)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], pid: int) -> "InheritedSockets":
        """
        Find the sockets by the variables of sd_listen_fds(3).

        @param pid: this process; LISTEN_PID names the only process that the sockets are for.
        """
        with suppress(KeyError, ValueError):
            meant, count = int(environ["LISTEN_PID"]), int(environ["LISTEN_FDS"])
            if meant != pid:
                return cls(
                    why_none=f"they were handed to process {meant}, and this is process {pid}; "
                    "let that process exec this one, with no shell in between"
                )
            names = environ.get("LISTEN_FDNAMES", "").split(":")
            # systemd's own name for a descriptor without a name (sd_listen_fds(3)).
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
        Take the sockets of an endpoint string: C{systemd:name=echo} is for all with this name,
        C{systemd:index=0} for the first one.  A domain, which Twisted's own endpoint requires
        (C{systemd:INET6:name=echo}), is ignored.

        @raise ValueError: if there are none, or another endpoint has taken them.
        """
        fields = dict(re.findall(r":(name|index)=([^:]*)", description))
        if set(fields) not in ({"name"}, {"index"}):
            raise ValueError("says no socket; give name= or index= of one that is handed over")
        name, index = fields.get("name"), fields.get("index")
        taken = [
            each
            for number, each in enumerate(self._sockets)
            if each.name == name or str(number) == index
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

    C{os.environ} no longer has the variables: C{twisted.internet.endpoints} removes
    C{LISTEN_PID} and C{LISTEN_FDS} from it when it is imported.

    @raise OSError: if the file cannot be read.
    """
    entries = os.fsdecode(Path(path).read_bytes()).split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
