"""
What a connection is to the rest of the house: a few figures to look at, two ways to
end it, and one word for why it ended.

Invariant: it only names.  Who looks and who is looked at both come here, and
neither has to know the other.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.python.failure import Failure


class Reason(StrEnum):
    """
    Why a connection ended, or was refused: one word, the same in code and log.
    """

    CLIENT = "client"
    """The client closed, or closed its sending side and was sent all it was owed."""
    RESET = "reset"
    """The client, or the network, broke the connection."""
    IDLE_TIMEOUT = "idle-timeout"
    """Nothing went either way for the whole idle timeout."""
    MAX_LIFETIME = "max-lifetime"
    """It had lived for as long as a connection may."""
    WRITE_TIMEOUT = "write-timeout"
    """The client took nothing of what it was owed for the whole write timeout."""
    DRAIN = "drain"
    """The daemon is stopping; the connection was quiet and ended politely."""
    ABORTED = "aborted"
    """The daemon is stopping and could not wait any longer."""
    ERROR = "error"
    """TLS, or something in the daemon, failed."""

    DENIED = "denied"
    """Refused: the address rules do not let the client in."""
    MAX_CONNECTIONS = "max-connections"
    """Refused: there were as many connections as may be."""
    MAX_PER_CLIENT = "max-per-client"
    """Refused: the client had as many connections as it may have."""
    CONNECT_RATE = "connect-rate"
    """Refused: the client connected more often than it may."""
    PROXY_HEADER = "proxy-header"
    """Refused: the PROXY header was missing, wrong, late, or not to be believed."""
    HANDSHAKE = "handshake"
    """Refused: the TLS handshake failed, or took too long."""


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
"""The reasons for which a client is not let in."""


def reason_from_failure(failure: Failure) -> Reason:
    """
    What a transport's last word says about the end of its connection.
    """
    kind = failure.type or Exception
    if issubclass(kind, ConnectionDone | ConnectionAborted):
        return Reason.CLIENT
    return Reason.RESET if issubclass(kind, ConnectionLost) else Reason.ERROR


class Connection(Protocol):
    """
    What the live set asks of a connection.
    """

    bytes_echoed: int
    paused: bool
    ending: bool
    waiting_for: Reason | None
    """What it is refused for if that which it still waits for does not come in time."""

    @property
    def listener(self) -> str:
        """
        The name of the listener that accepted the connection.
        """

    def unread(self) -> int:
        """
        Bytes that the kernel has received and the connection has not.
        """

    def pending(self) -> tuple[int, ...]:
        """
        How many bytes the client has not taken yet, by where they are.  While nothing more
        is echoed, any change means that it takes.  All zero when nothing is owed.
        """

    def peer(self) -> str:
        """
        The client's address in words, free of control characters.
        """

    def log_fields(self) -> Mapping[str, str]:
        """
        What else its access record tells, by name; free of control characters.  It is
        asked for at the end, when the transport may be gone.
        """

    def timed_out(self) -> None:
        """
        What it waits for has not come in time.
        """

    def close(self, reason: Reason) -> None:
        """
        End politely: send what is owed, half-close, read and discard.
        """

    def abort(self, reason: Reason | None = None) -> None:
        """
        End at once; without a reason, the one that the end began with stands.
        """
