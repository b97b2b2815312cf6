"""
One worker, as its parent sees it: a process, its lifeline, and what it writes.

Invariant: a worker is believed to be up when it says so, and to be gone when
the kernel says so; whatever it writes is bounded, and shown harmless.
"""

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from echod._util.text import escape
from echod.workers.channel import Channel, Message

log = Logger(namespace="echod.workers")

MAX_LINE_BYTES = 64 * 1024
"""A longer line of a worker's is cut in pieces."""


class ISupervisor(Protocol):
    """
    What a worker's parent is told.
    """

    def worker_up(self, child: "WorkerProcess") -> None: ...
    def worker_ended(self, child: "WorkerProcess", how: str) -> None: ...


class Lines:
    """
    Puts together again what arrives in pieces.
    """

    def __init__(self, take: Callable[[bytes], object]):
        """
        @param take: is given each line, with its end.
        """
        self._take = take
        self._pauseAccepting = b""

    def add(self, data: bytes) -> None:
        """
        Some more has come.
        """
        *lines, self._pauseAccepting = (self._pauseAccepting + data).split(b"\n")
        for line in lines:
            self._take(line + b"\n")
        if len(self._pauseAccepting) > MAX_LINE_BYTES:
            self.end()

    def end(self) -> None:
        """
        Nothing more will come: a line without an end is one.
        """
        rest, self._pauseAccepting = self._pauseAccepting, b""
        if rest:
            self._take(rest + b"\n")


class WorkerProcess(ProcessProtocol):
    """
    One worker.

    @ivar name: which one.
    @ivar born: when it was started.
    @ivar pid: its process.
    @ivar up: whether it has said that all its listeners stand.
    @ivar complaint: what it wrote last to its standard error, before it was up.
    @ivar totals: how many connections it has, and how many bytes it has echoed and clients
        refused, as it said last.
    @ivar dropped: how many lines of its log have been dropped here.
    @ivar silent: how many looks have passed since it said anything.
    """

    transport: Any
    channel: Channel | None = None
    pid = 0
    up = False
    complaint = ""
    dropped = 0
    silent = 0
    totals: Sequence[int] = (0, 0, 0)

    def __init__(
        self, name: str, born: float, parent: ISupervisor, write_log: Callable[[bytes], bool]
    ):
        """
        @param write_log: is given each line of its log, when that goes through us, and
            says whether it was taken.
        """
        self.name = name
        self.born = born
        self._parent = parent
        self._write_log = write_log
        self._out = Lines(self._log)
        self._err = Lines(self._complain)
        self._asked = 0
        self._answers: dict[int, Deferred[Message]] = {}

    def connectionMade(self) -> None:
        # The transport forgets it.
        self.pid = self.transport.pid

    def outReceived(self, data: bytes) -> None:
        self._out.add(data)

    def errReceived(self, data: bytes) -> None:
        self._err.add(data)

    def _log(self, line: bytes) -> None:
        self.dropped += not self._write_log(line)

    def _complain(self, line: bytes) -> None:
        text = escape(line.decode(errors="backslashreplace").rstrip())
        if self.up:
            log.error(
                "worker {worker} says: {line}", event="worker-output", worker=self.name, line=text
            )
        elif text:
            self.complaint = text

    def messageReceived(self, message: Message) -> None:
        """
        The worker has said something.
        """
        self.silent = 0
        self.totals = message.get("totals", self.totals)
        if message.get("up"):
            self.up = True
            self._parent.worker_up(self)
        elif (answer := self._answers.pop(message.get("answer", 0), None)) is not None:
            answer.callback(message)

    def lost(self) -> None:
        """
        Nothing more will be heard; the process ends, or has.
        """
        self.channel = None
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.cancel()

    def send(self, **message: Any) -> None:
        """
        Tell the worker what to do, if it still hears us.
        """
        if self.channel is not None:
            self.channel.send(**message)

    def ask(self, **question: Any) -> Deferred[Message]:
        """
        Ask the worker something.

        @return: its answer; cancelled when there will be none.
        """
        self._asked += 1
        number = self._asked

        def forget(_: object) -> None:
            self._answers.pop(number, None)

        answer: Deferred[Message] = Deferred(forget)
        if self.channel is None:
            answer.cancel()
        else:
            self._answers[number] = answer
            self.channel.send(ask=number, **question)
        return answer

    def kill(self) -> None:
        """
        End it at once.
        """
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def processEnded(self, reason: Failure) -> None:
        self._out.end()
        self._err.end()
        self._parent.worker_ended(self, how_ended(reason.value))


def how_ended(end: Any) -> str:
    """
    How a process ended, in words.
    """
    if (number := getattr(end, "signal", None)) is not None:
        return f"was ended by {signal.Signals(number).name}"
    return f"ended with status {end.exitCode}"
