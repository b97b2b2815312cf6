"""
How a transport lets another part look at what has come, before the protocol gets it.

Invariant: what has been looked at, and not been dropped, stays in the kernel for the next read.
"""

import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST

if TYPE_CHECKING:
    from twisted.internet.tcp import Server as _Transport
else:
    _Transport = object

PeekCallback = Callable[[bytes], tuple[int, Callable[[], None] | None]]
"""
Takes the bytes that have come (C{MSG_PEEK}, recv(2)).  Returns how many of them are to be received
and dropped, which must not be 0 if the callback wants to see more, and what to call afterwards.
"""


class PeekMixin(_Transport):
    """
    The peek (C{MSG_PEEK}, recv(2)) of a transport.
    """

    _hidesMethods: bool
    _peeking: Callable[[], Any] | None = None
    readLast: Callable[[], None]

    def startPeek(self, callback: PeekCallback, size: int) -> None:
        """
        Until L{stopPeek}, hand what has come to C{callback} and not to the protocol.  What the
        callback does not drop stays in the kernel, for the next read.

        @param size: how many bytes the callback gets at most.
        """
        self._peeking = partial(self._peek, callback, size)
        self._hidesMethods = True
        self.doRead = self._peeking  # type: ignore[method-assign]
        # What the callback starts, such as TLS, takes as long as many echoes.
        self.readLast()

    def _peek(self, callback: PeekCallback, size: int) -> Any:
        try:
            data = self.socket.recv(size, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        dropped, afterwards = callback(data)
        if dropped:
            self.socket.recv(dropped)
        if afterwards is not None:
            afterwards()
        return None

    def stopPeek(self) -> None:
        """
        From now on the protocol gets what comes.
        """
        self._peeking = None
        self.__dict__.pop("doRead", None)
