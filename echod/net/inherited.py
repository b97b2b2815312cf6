"""
Sockets that listen already when the daemon is started: those of a socket unit of
systemd's, or of whoever else hands them over in the same way (sd_listen_fds(3)).

The rule of this room: such a socket is only borrowed.  Its family, its file, its
permissions and its queue belong to the one who made it, and outlive this process.
"""

import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer

from echod._util.sockets import printable
from echod.net.unix import BorrowedUNIXPort

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


@implementer(IStreamServerEndpoint)
class InheritedEndpoint:
    """
    Listens on a socket that was handed over.
    """

    def __init__(self, reactor: Any, inherited: InheritedSocket):
        """
        @raise ValueError: when it is not a listening stream socket.
        """
        self._reactor = reactor
        self._descriptor = inherited.descriptor
        self._family = inherited.family()

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Begin to accept.
        """
        if self._family == socket.AF_UNIX:
            return execute(self._borrow, protocolFactory)
        endpoint = AdoptedStreamServerEndpoint(self._reactor, self._descriptor, self._family)
        adopted: Deferred[IListeningPort] = endpoint.listen(protocolFactory)
        return adopted

    def _borrow(self, factory: IProtocolFactory) -> IListeningPort:
        # The ports that Twisted's reactors make of a UNIX socket unlink its file at the end.
        os.set_blocking(self._descriptor, False)
        port: Any = BorrowedUNIXPort._fromListeningDescriptor(
            self._reactor, self._descriptor, factory
        )
        os.close(self._descriptor)
        port.startListening()
        listening: IListeningPort = port
        return listening


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
            environ = first_environment(path)
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
            names = ", ".join(printable(each.name) for each in self._sockets)
            way_out = f"give one of {names}" if names else "give it to a socket unit of systemd's"
            raise ValueError(f"no such socket was handed over; {way_out}")
        if not set(taken) <= set(self.left):
            raise ValueError("another option has taken it; give each once")
        self.left = [each for each in self.left if each not in taken]
        return taken


def first_environment(path: str = "/proc/self/environ") -> dict[str, str]:
    """
    The environment that this process was started with (proc(5)).

    In C{os.environ} nothing is left: Twisted's endpoints take C{LISTEN_PID} and
    C{LISTEN_FDS} from there when they are imported, and know no nameless sockets.

    @raise OSError: when the system does not tell.
    """
    entries = os.fsdecode(Path(path).read_bytes()).split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
