"""
What a connection is to the rest of the house: a few figures to look at, two ways to
end it, and one word for why it ended.

The rule of this room: it only names.  Who looks and who is looked at both come here, and
neither has to know the other.
"""

from enum import StrEnum
from typing import Protocol


class Reason(StrEnum):
    """
    Why a connection ended: one word, the same in code and log.
    """

    CLIENT = "client"
    """The client closed, or closed its sending side and was sent all it was owed."""
    RESET = "reset"
    """The client, or the network, broke the connection."""
    DRAIN = "drain"
    """The daemon is stopping; the connection was quiet and ended politely."""
    ABORTED = "aborted"
    """The daemon is stopping and could not wait any longer."""
    WRITE_STALL = "write-stall"
    """The client took nothing of what it was owed for the whole write timeout."""
    ERROR = "error"
    """TLS, or something in the daemon, failed."""


class Connection(Protocol):
    """
    What the live set asks of a connection.
    """

    bytes_echoed: int
    paused: bool
    ending: bool

    @property
    def listener(self) -> str:
        """
        The name of the listener that accepted the connection.
        """

    def unread(self) -> int:
        """
        Bytes that the kernel has received and the connection has not.
        """

    def owed(self) -> tuple[int, ...]:
        """
        What the client has not taken yet; any change means that it takes.  All zero
        when nothing is owed.
        """

    def peer(self) -> str:
        """
        The client's address in words, free of control characters.
        """

    def finish(self, reason: Reason) -> None:
        """
        End politely: send what is owed, half-close, read and discard.
        """

    def abort(self, reason: Reason | None = None) -> None:
        """
        End at once; without a reason, the one that the end began with stands.
        """
