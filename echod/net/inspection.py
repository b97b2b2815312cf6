"""
Looking at what has come on a connection, before its protocol does.

The rule of this room: no more is received than the one who looks has taken for itself;
whoever reads next, OpenSSL perhaps, finds the rest in the kernel.
"""

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST

Look = Callable[[bytes], tuple[int, Callable[[], None] | None]]
"""
Is given what has come (C{MSG_PEEK}, recv(2)), and returns how many bytes of it are received
and dropped, which must not be 0 as long as it wants to see more, and what to call
afterwards.
"""


class Inspectable:
    """
    What makes a transport one that can be looked into.
    """

    doRead: Callable[..., Any]
    _inspecting: Callable[[], Any] | None = None

    def inspect(self: Any, look: Look, most: int) -> None:
        """
        Until L{endInspection}, let C{look} see what has come, instead of the protocol, and
        say how many bytes of it are received and dropped.  What is left stays in the
        kernel, for whoever reads next.

        @param most: how many bytes it is shown at once.
        """
        self.doRead = self._inspecting = partial(self._inspect, look, most)
        # What comes of it, such as the beginning of TLS, takes as long as many echoes.
        self.readLast()

    def _inspect(self: Any, look: Look, most: int) -> Any:
        try:
            data = self.socket.recv(most, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        size, afterwards = look(data)
        if size:
            self.socket.recv(size)
        if afterwards is not None:
            afterwards()
        return None

    def endInspection(self: Any) -> None:
        """
        From now on the protocol gets what comes.
        """
        self._inspecting = None
        self.__dict__.pop("doRead", None)
