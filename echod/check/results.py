"""
The outcomes of a check, each with its exit status, and the records of what it found.

Invariant: an outcome's word, status and meaning are defined here only; the help and all output
use them, and a test holds the manual page to them.
"""

import errno
import os
from dataclasses import dataclass, field
from enum import Enum


class Outcome(Enum):
    """
    The outcomes.  Each has a word, an exit status, and a meaning.
    """

    OK = ("ok", 0, "every byte came back, and nothing else")
    FAILED = ("failed", 1, "--ping: echoes were lost or wrong; --conformance: a case failed")
    USAGE = (
        "usage",
        2,
        "a wrong option, an unusable file, no file descriptor, or standard output failed",
    )
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


_DESCRIPTOR_ADVICE = {
    errno.EMFILE: "raise the hard limit (ulimit -Hn)",
    errno.ENFILE: "raise the limit of the system (fs.file-max)",
}


class DescriptorError(Exception):
    """
    There is no file descriptor for a check.  That is no fault of the server, so it ends the run.
    """

    @classmethod
    def raise_for(cls, number: object) -> None:
        """
        @param number: the C{errno} of a system call that failed.
        @raise DescriptorError: if it means that there is no descriptor (C{EMFILE} and C{ENFILE},
            socket(2)).
        """
        for known, advice in _DESCRIPTOR_ADVICE.items():
            if number == known:
                text = f"no file descriptor to reach the server: {os.strerror(known)}; {advice}"
                raise cls(text) from None


@dataclass(frozen=True)
class TLSSession:
    """
    What the TLS handshake negotiated.

    @ivar group: the group of the key exchange; C{None} when it is not known.
    @ivar names: the names in the certificate.
    @ivar days_left: days until the certificate expires.
    @ivar verified: whether the certificate was verified.
    @ivar fingerprint: whether it was verified by its fingerprint alone.
    """

    version: str
    cipher: str
    group: str | None
    alpn: str | None
    names: tuple[str, ...]
    days_left: int
    verified: bool
    fingerprint: bool = False


@dataclass
class Times:
    """
    How long each stage took, in seconds; C{None} for a stage that was not completed.  A stage
    begins when the one before it is complete, so the stages of a check that passed add up to its
    total.

    @ivar echo: from the connection, or the TLS handshake, to the last byte back.
    @ivar close: from the last byte back to the end of the connection.
    @ivar first_byte: a part of C{echo}: from the first byte sent to the first byte back.
    @ivar total: from the start to the end of the check.
    """

    resolve: float | None = None
    connect: float | None = None
    handshake: float | None = None
    echo: float | None = None
    close: float | None = None
    first_byte: float | None = None
    total: float | None = None
    _begun: float | None = field(default=None, repr=False, compare=False)
    _completed: float = field(default=0.0, repr=False, compare=False)

    def begin(self, now: float) -> None:
        """
        The first stage begins; only the first call counts.
        """
        if self._begun is None:
            self._begun = self._completed = now

    def complete(self, stage: str, now: float) -> None:
        """
        A stage is complete, and the next one begins.
        """
        self.begin(now)
        setattr(self, stage, now - self._completed)
        self._completed = now

    def end(self, now: float) -> None:
        """
        The check has ended.
        """
        self.begin(now)
        end = now if self.close is None else self._completed
        self.total = end - (self._begun or 0.0)

    def stages(self) -> dict[str, float | None]:
        """
        Each stage in order, and what is no stage: C{first_byte} and C{total}.
        """
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


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
