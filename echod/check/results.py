"""
The outcomes of a check, each with its exit status, and the records of what it found.

Invariant: an outcome's word, status and meaning are defined here only; the help and all output
use them, and a test holds the manual page to them.
"""

from dataclasses import dataclass, field
from enum import Enum


class Outcome(Enum):
    """
    The outcomes.  Each has a word, an exit status, and a meaning.
    """

    OK = ("ok", 0, "every byte came back, and nothing else")
    FAILED = ("failed", 1, "--ping: echoes were lost or wrong; --conformance: a case failed")
    USAGE = ("usage", 2, "a wrong option, an unusable file, or standard output failed")
    UNRESOLVED = ("cannot resolve", 3, "the host name has no address")
    REFUSED = ("refused", 4, "no server listens on this port, or a firewall rejects it")
    TIMED_OUT = ("timed out", 5, "--timeout has passed; the output names the stage")
    TLS_REFUSED = ("TLS refused", 6, "the TLS handshake failed, or the certificate is not trusted")
    WRONG_NAME = ("wrong name", 7, "the server's certificate is for other names")
    CORRUPTED = ("corrupted", 8, "a byte came back changed")
    LOST = ("lost", 9, "fewer bytes came back than were sent")
    CLOSED_EARLY = (
        "closed early",
        10,
        "the server closed before every byte was back, or closed TLS without a close_notify",
    )
    RESET = ("reset", 11, "the connection was reset")
    SURPLUS = ("surplus", 12, "more bytes came back than were sent, or some came back twice")
    UNREACHABLE = ("unreachable", 13, "no route, no such socket, or not permitted")
    INTERRUPTED = ("interrupted", 130, "stopped by Ctrl-C or SIGTERM")

    def __init__(self, word: str, status: int, meaning: str):
        self.word = word
        self.status = status
        self.meaning = meaning


class CheckError(Exception):
    """
    A check failed.

    @ivar outcome: how.
    @ivar detail: more, in words.
    """

    def __init__(self, outcome: Outcome, detail: str):
        super().__init__(f"{outcome.word}: {detail}")
        self.outcome = outcome
        self.detail = detail


@dataclass(frozen=True)
class TLSSession:
    """
    What the TLS handshake negotiated.

    @ivar group: the group of the key exchange; C{None} when it is not known.
    @ivar names: the names in the certificate.
    @ivar days_left: days until the certificate expires.
    @ivar verified: whether the certificate was verified.
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
    How long each stage took, in seconds; C{None} for a stage that was not completed.

    @ivar first_byte: from the first byte sent to the first byte back.
    @ivar total: from the start to the end of the check.
    """

    resolve: float | None = None
    connect: float | None = None
    handshake: float | None = None
    first_byte: float | None = None
    total: float | None = None

    def stages(self) -> list[tuple[str, float]]:
        """
        The completed stages, in order: name and seconds.
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

    @ivar peer: the address that the check connected to; empty when it did not connect.
    @ivar stage: the stage that runs, or ran last.
    @ivar received: bytes that came back.
    @ivar failure: C{None} when the check passed.
    """

    peer: str = ""
    stage: str = ""
    received: int = 0
    times: Times = field(default_factory=Times)
    session: TLSSession | None = None
    failure: CheckError | None = None

    @property
    def outcome(self) -> Outcome:
        """
        The outcome.
        """
        return self.failure.outcome if self.failure else Outcome.OK


@dataclass(frozen=True)
class CaseResult:
    """
    What one case of the conformance suite found.

    @ivar sent: bytes that the case sent.
    @ivar lost: how many of them did not come back unchanged.
    """

    name: str
    sent: int
    lost: int
    seconds: float
    failure: CheckError | None

    @property
    def passed(self) -> bool:
        """
        Whether the case passed.
        """
        return self.failure is None
