"""
The interface of a connection, and the reasons why one ends.

Invariant: this module only defines; it knows neither the protocols that implement the interface
nor the code that uses it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure


class Reason(StrEnum):
    """
    Why a connection ended, or was refused: the same word in the code, the log and the metrics.
    """

    CLIENT = "client"
    """
    The client closed, or closed its sending side and got the whole echo: its kernel has
    acknowledged every byte.  In TLS, also when it closed after its C{close_notify} with echo
    unread: a reset that answers our C{close_notify} alone looks the same.
    """
    RESET = "reset"
    """The client, or the network, broke the connection, or the client closed with echo unread."""
    IDLE_TIMEOUT = "idle-timeout"
    """No byte was sent or received for the whole idle timeout."""
    MAX_LIFETIME = "max-lifetime"
    """The connection reached its maximum lifetime."""
    WRITE_TIMEOUT = "write-timeout"
    """The client read nothing of its echo for the whole write timeout."""
    DRAIN = "drain"
    """The daemon is stopping; the connection was quiet and was closed."""
    ABORTED = "aborted"
    """The daemon is stopping and the connection did not end in time."""
    FAULT = "fault"
    """The listener ends connections on purpose."""
    ERROR = "error"
    """TLS, or something in the daemon, failed."""

    DENIED = "denied"
    """Refused: the access rules do not allow the client's address."""
    MAX_CONNECTIONS = "max-connections"
    """Refused: the daemon had its maximum number of connections."""
    MAX_PER_CLIENT = "max-per-client"
    """Refused: the client had its maximum number of connections."""
    CONNECT_RATE = "connect-rate"
    """Refused: the client connected more often than its rate allows."""
    PROXY_HEADER = "proxy-header"
    """Refused: the PROXY header was missing, wrong, late, or not from a trusted proxy."""
    HANDSHAKE = "handshake"
    """Refused: the TLS handshake failed, or took too long."""


CLIENT = Reason.CLIENT
"""For the end of most connections: to look up a member of an enum takes 0.15 us."""


REFUSED = frozenset(
    (
        Reason.DENIED,
        Reason.MAX_CONNECTIONS,
        Reason.MAX_PER_CLIENT,
        Reason.CONNECT_RATE,
        Reason.PROXY_HEADER,
        Reason.HANDSHAKE,
    )
)
"""The reasons for which a client is refused."""


def reason_from_failure(failure: Failure) -> Reason:
    """
    The reason that a transport's C{connectionLost} gives for the end of its connection.
    """
    if isinstance(failure.value, (ConnectionDone, ConnectionAborted)):
        return CLIENT
    return Reason.RESET if isinstance(failure.value, ConnectionLost) else Reason.ERROR


class IConnection(Protocol):
    """
    What L{Connections<echod.connections.tracker.Connections>} needs of a connection.
    """

    bytes_echoed: int
    paused: bool
    """Whether reading has stopped, because too much is queued for the client."""
    ending: bool
    """Whether the connection is being closed."""
    waiting_for: Reason | None
    """The reason for which it is refused if what it waits for does not come in time."""

    @property
    def listener(self) -> str:
        """
        The name of the listener that accepted the connection.
        """

    @property
    def client(self) -> IAddress:
        """
        The client's address: from the PROXY header if there was one, else the peer's.
        """

    def unread(self) -> int:
        """
        The number of bytes that the kernel has received and the connection has not read.
        """

    def pending(self) -> tuple[int, ...]:
        """
        What the client has not received yet, in each buffer: the kernel's, and last the
        transport's, in bytes.  The kernel counts the records of TLS, and on a UNIX socket the
        memory that it occupies, which is several times the bytes of a short message.  While nothing
        more is echoed, any change means that the client reads.
        """

    def acknowledged(self) -> int | None:
        """
        How many bytes, on the wire, the client's kernel has acknowledged; C{None} if our kernel
        does not tell, as for UNIX sockets.
        """

    def end_if_delivered(self) -> bool:
        """
        End the connection if it has only waited until the client had received all, and that is
        so, or will not be.

        @return: whether it has ended.
        """

    def peer(self) -> str:
        """
        The client's address as text, free of control characters.
        """

    def log_fields(self) -> Mapping[str, str]:
        """
        More fields for the access record, free of control characters.  This is called at the
        end, when the transport may be gone.
        """

    def timed_out(self) -> None:
        """
        What the connection waits for has not come in time.
        """

    def close(self, reason: Reason) -> None:
        """
        Close politely: send what is pending, half-close, then read and discard.
        """

    def abort(self, reason: Reason | None = None) -> None:
        """
        End at once; without a reason, the reason of an earlier C{close} stays.
        """
