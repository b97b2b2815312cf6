"""
A worker, as the master sees it: its process, its channel, and its output.

Invariant: a worker is up when it says so, and has exited when the kernel says so; no error keeps
its supervisor from being told.  Its output is limited, and escaped before it is logged.
"""

import signal
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from echod._util.text import escape
from echod._util.timers import surviving
from echod.workers.channel import Channel, Message

log = Logger(namespace="echod.workers")

MAX_LINE_BYTES = 64 * 1024
"""A longer line of a worker's output is cut into several."""


class ISupervisor(typing.Protocol):
    """
    The supervisor of a worker, as the worker's process sees it.
    """

    def worker_up(self, child: "WorkerProcess") -> None:
        """
        The worker has started all its listeners.
        """

    def worker_ended(self, child: "WorkerProcess", how: str) -> None:
        """
        The worker has exited.

        @param how: as L{how_ended} returns it.
        """


class LineBuffer:
    """
    Splits a stream into lines.
    """

    def __init__(self, on_line: Callable[[bytes], object]):
        """
        @param on_line: called with each line and its newline.
        """
        self._on_line = on_line
        self._partial = b""

    def add(self, data: bytes) -> None:
        """
        Add the next bytes of the stream.
        """
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._on_line(line + b"\n")
        if len(self._partial) > MAX_LINE_BYTES:
            self.end()

    def end(self) -> None:
        """
        The stream has ended: the rest is a line.
        """
        partial, self._partial = self._partial, b""
        if partial:
            self._on_line(partial + b"\n")


class WorkerProcess(ProcessProtocol):
    """
    The process of one worker.

    @ivar name: the name of the worker.
    @ivar pid: its process id.
    @ivar channel: the channel to it; C{None} when that is closed.
    @ivar up_since: when it had started all its listeners, by the reactor's clock; C{None} before.
    @ivar startup_error: the last line of its standard error before it was up.
    @ivar totals: its connections, bytes echoed and clients refused, from its last message.
    @ivar dropped: how many lines of its log the master has dropped.
    @ivar silent: how many heartbeats were sent since its last message.
    """

    transport: Any
    channel: Channel | None = None
    pid = 0
    up_since: float | None = None
    startup_error = ""
    dropped = 0
    silent = 0
    totals: Sequence[int] = (0, 0, 0)

    def __init__(
        self,
        name: str,
        clock: IReactorTime,
        parent: ISupervisor,
        write_log: Callable[[bytes], bool],
    ):
        """
        @param parent: its supervisor.
        @param write_log: called with each line of its log, when that goes through the master;
            returns whether the line was written.
        """
        self.name = name
        self._clock = clock
        self._parent = parent
        self._write_log = write_log
        self._stdout = LineBuffer(self._log)
        self._stderr = LineBuffer(self._log_error)
        self._last_question = 0
        self._answers: dict[int, Deferred[Message]] = {}

    @property
    def up(self) -> bool:
        """
        Whether it has started all its listeners.
        """
        return self.up_since is not None

    def connectionMade(self) -> None:
        # Kept here: transport.pid is None after the exit.
        self.pid = self.transport.pid

    def outReceived(self, data: bytes) -> None:
        self._stdout.add(data)

    def errReceived(self, data: bytes) -> None:
        self._stderr.add(data)

    def _log(self, line: bytes) -> None:
        self.dropped += not self._write_log(line)

    def _log_error(self, line: bytes) -> None:
        text = escape(line.decode(errors="backslashreplace").rstrip())
        if self.up:
            log.error(
                "worker {worker} says: {line}", event="worker-output", worker=self.name, line=text
            )
        elif text:
            self.startup_error = text

    def message_received(self, message: Message) -> None:
        """
        The worker has sent a message.
        """
        self.silent = 0
        self.totals = message.get("totals", self.totals)
        if message.get("up"):
            self.up_since = self._clock.seconds()
            self._parent.worker_up(self)
        elif (answer := self._answers.pop(message.get("answer", 0), None)) is not None:
            answer.callback(message)

    def channel_closed(self) -> None:
        """
        The channel is closed: the worker exits, or has exited.
        """
        self.channel = None
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.cancel()

    def send(self, **message: Any) -> None:
        """
        Send a message to the worker, if the channel is open.
        """
        if self.channel is not None:
            self.channel.send(**message)

    def ask(self, **question: Any) -> Deferred[Message]:
        """
        Ask the worker a question.

        @return: its answer; canceled when the channel is closed.
        """
        self._last_question += 1
        number = self._last_question

        def forget(_: object) -> None:
            self._answers.pop(number, None)

        answer: Deferred[Message] = Deferred(forget)
        if self.channel is None:
            answer.cancel()
        else:
            self._answers[number] = answer
            self.channel.send(ask=number, **question)
        return answer

    def stop(self) -> None:
        """
        Tell the worker to drain and end.
        """
        self.send(do="stop")
        if not self.up:
            # It may not read messages yet, and then ends by the signal at once.
            self._signal("TERM")

    def kill(self) -> None:
        """
        Send SIGKILL to the worker.
        """
        self._signal("KILL")

    def _signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)

    def processEnded(self, reason: Failure) -> None:
        surviving("logging the last output of a worker", self._stdout.end)()
        surviving("logging the last errors of a worker", self._stderr.end)()
        self._parent.worker_ended(self, how_ended(reason.value))


def how_ended(end: Any) -> str:
    """
    How a process has exited, in words.

    @param end: Twisted's C{ProcessDone} or C{ProcessTerminated}.
    """
    if (number := getattr(end, "signal", None)) is not None:
        return f"was ended by {signal_name(number)}"
    return f"ended with status {end.exitCode}"


def signal_name(number: int) -> str:
    """
    The name of a signal, of any number; those of real-time signals are relative to SIGRTMIN
    (signal(7)).
    """
    with suppress(ValueError):
        return signal.Signals(number).name
    # Python names only the first and the last real-time signal.
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return f"signal {number}"
