"""
The channel between the master and one worker: a pair of connected UNIX sockets, with messages in
both directions.

Invariant: a message is a JSON object of limited length.  The end of file tells each side that the
other process has exited, however it did.
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

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""The longest message; a snapshot has a few hundred KiB at most."""


class Channel(Int32StringReceiver):
    """
    One end of a channel.
    """

    MAX_LENGTH = MAX_MESSAGE_BYTES

    def __init__(
        self,
        on_message: Callable[[Message], object],
        on_connection_lost: Callable[[], object],
    ):
        """
        @param on_message: called with each message.
        @param on_connection_lost: called when the other process has closed its end.
        """
        self._on_message = on_message
        self._on_connection_lost = on_connection_lost

    def send(self, **message: Any) -> None:
        """
        Send a message.  It is lost if the other process has exited.
        """
        self.sendString(json.dumps(message).encode())

    def stringReceived(self, string: bytes) -> None:
        self._on_message(json.loads(string))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._on_connection_lost()


def adopt(
    reactor: Any,
    descriptor: int,
    on_message: Callable[[Message], object],
    on_connection_lost: Callable[[], object],
) -> Channel:
    """
    Make a channel of an open socket.  The callbacks are those of L{Channel}.

    @param descriptor: the socket.  It is closed: the reactor uses a duplicate.
    @raise OSError: if there are too few file descriptors for that.
    """
    channel = Channel(on_message, on_connection_lost)
    os.set_blocking(descriptor, False)
    factory = Factory.forProtocol(lambda: channel)
    factory.noisy = False
    try:
        reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, factory)
    finally:
        os.close(descriptor)
    return channel
