"""
C{--greet}: the first line that a client gets says what the daemon knows of the connection.

Invariant: the line is one JSON object in printable ASCII, whatever client and proxy have sent, and
nothing of the echo comes before it.
"""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from echod._util.text import format_address
from echod.protocol import Echo

if TYPE_CHECKING:
    from echod.faults.factory import FaultFactory


def greeting(echo: Echo, worker: str | None, now: float) -> bytes:
    """
    The line for a client.

    @param worker: the name of this worker; C{None} in a process that is not a worker.
    @param now: seconds since 1970.
    """
    time = datetime.fromtimestamp(now, UTC).replace(tzinfo=None)
    fields: dict[str, object] = {
        "time": time.isoformat(timespec="milliseconds") + "Z",
        "connection": echo.factory.connections.number(echo),
        "client": echo.peer(),
        "listener": echo.listener,
        "address": format_address(echo.transport.getHost()),
    }
    if worker is not None:
        fields["worker"] = worker
    return json.dumps(fields | echo.log_fields()).encode() + b"\n"


class GreetingEcho(Echo):
    """
    An L{Echo} that knows when it begins, and then says the greeting if the listener has one.
    """

    factory: "FaultFactory"

    def connectionMade(self) -> None:
        super().connectionMade()
        if self.waiting_for is None:
            self.ready()

    def handshakeCompleted(self) -> None:
        """
        The TLS handshake is complete.
        """
        super().handshakeCompleted()
        if self.waiting_for is None:
            self.ready()

    def ready(self) -> None:
        """
        The echo begins; nothing that the client sent has been received yet.
        """
        factory = self.factory
        if factory.greets:
            self.transport.write(greeting(self, factory.worker, factory.now()))
