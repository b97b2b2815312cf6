"""
The lifeline between a parent and one of its workers: a pair of connected sockets, and on
it, in both directions, messages.

Invariant: a message is a JSON object of bounded length.  Its end of file says
that the other one is gone, whatever became of it.
"""

import json
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

Message = dict[str, Any]

MAX_BYTES = 16 * 1024 * 1024
"""The longest message; a snapshot is a few hundred KiB at most."""


class Channel(Int32StringReceiver):
    """
    One end.
    """

    MAX_LENGTH = MAX_BYTES

    def __init__(self, heard: Callable[[Message], object], lost: Callable[[], object]):
        """
        @param heard: is given each message.
        @param lost: is called when the other end is gone.
        """
        self._heard = heard
        self._lost = lost

    def send(self, **message: Any) -> None:
        """
        Send a message; to one who is gone it is lost.
        """
        self.sendString(json.dumps(message).encode())

    def stringReceived(self, string: bytes) -> None:
        self._heard(json.loads(string))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost()


def adopt(
    reactor: Any,
    descriptor: int,
    heard: Callable[[Message], object],
    lost: Callable[[], object],
) -> Channel:
    """
    Take hold of one end.

    @param descriptor: its socket, which is closed here, since the reactor has its own.
    """
    end = Channel(heard, lost)
    os.set_blocking(descriptor, False)
    factory = Factory.forProtocol(lambda: end)
    factory.noisy = False
    reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, factory)
    os.close(descriptor)
    return end
