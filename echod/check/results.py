"""
How asking an echo server can end, in one word and one exit status each, and what was
learned on the way.

Invariant: a word, its status and its meaning stand here once; the help, the
README and every answer take them from here.
"""

from dataclasses import dataclass, field
from enum import Enum


class Outcome(Enum):
    """
    The ends.  Each has a word, the exit status of C{echod-check}, and a meaning.
    """

    OK = ("ok", 0, "every byte came back, and nothing else")
    FAILED = ("failed", 1, "--ping: echoes were lost or wrong; --conformance: a case failed")
    USAGE = ("usage", 2, "a wrong option, or a file that cannot be used")
    UNRESOLVED = ("cannot resolve", 3, "the name of the host has no address")
    REFUSED = ("refused", 4, "nobody listens there, or a firewall says so")
    TIMED_OUT = ("timed out", 5, "--timeout was over; the stage that it was over in is named")
    TLS_REFUSED = ("TLS refused", 6, "no TLS with this server, or its certificate is not trusted")
    WRONG_NAME = ("wrong name", 7, "the server's certificate is for other names")
    CORRUPTED = ("corrupted", 8, "a byte came back as another one")
    LOST = ("lost", 9, "fewer bytes came back than were sent")
    CLOSED_EARLY = (
        "closed early",
        10,
        "the server closed before all had come back, or cut off TLS",
    )
    RESET = ("reset", 11, "the connection was reset")
    SURPLUS = ("surplus", 12, "more came back than was sent, or some of it twice")
    UNREACHABLE = ("unreachable", 13, "no way there: no route, no such socket, not allowed")
    INTERRUPTED = ("interrupted", 130, "stopped by Ctrl-C or SIGTERM")

    def __init__(self, word: str, status: int, meaning: str):
        self.word = word
        self.status = status
        self.meaning = meaning


class CheckFailed(Exception):
    """
    The server, or the way to it, is not as it should be.

    @ivar outcome: the class of the failure.
    @ivar detail: the rest, in words.
    """

    def __init__(self, outcome: Outcome, detail: str):
        super().__init__(f"{outcome.word}: {detail}")
        self.outcome = outcome
        self.detail = detail


@dataclass(frozen=True)
class TLSSession:
    """
    What TLS agreed on.

    @ivar group: of the key exchange; C{None} when it is not known.
    @ivar names: those that the certificate is for.
    @ivar verified: whether the certificate was checked at all.
    """

    version: str
    cipher: str
    group: str | None
    alpn: str | None
    names: tuple[str, ...]
    days_left: int
    verified: bool


@dataclass
class Times:
    """
    How long each stage took, in seconds; C{None} for one that was not come to, or that
    there is none of.

    @ivar first_byte: from the first byte sent to the first that came back.
    @ivar total: from the start to the end, whichever it was.
    """

    resolve: float | None = None
    connect: float | None = None
    handshake: float | None = None
    first_byte: float | None = None
    total: float | None = None

    def stages(self) -> list[tuple[str, float]]:
        """
        Those that are known, in order.
        """
        return [
            (name.replace("_", " "), value)
            for name, value in vars(self).items()
            if value is not None
        ]


@dataclass
class CheckResult:
    """
    What one check found.

    @ivar peer: the address that answered; empty when none did.
    @ivar stage: what is being done, or was last.
    @ivar received: bytes that came back.
    @ivar failure: C{None} when all is well.
    """

    peer: str = ""
    stage: str = ""
    received: int = 0
    times: Times = field(default_factory=Times)
    session: TLSSession | None = None
    failure: CheckFailed | None = None

    @property
    def outcome(self) -> Outcome:
        """
        The class of how it ended.
        """
        return self.failure.outcome if self.failure else Outcome.OK


@dataclass(frozen=True)
class CaseResult:
    """
    What one case of the conformance suite found.

    @ivar sent: bytes sent by the clients of the case.
    @ivar lost: how many of them did not come back as they were.
    """

    name: str
    sent: int
    lost: int
    seconds: float
    failure: CheckFailed | None

    @property
    def passed(self) -> bool:
        """
        Whether all was as it should be.
        """
        return self.failure is None
