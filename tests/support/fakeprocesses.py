"""
Fakes of processes, and of the reactor that starts them.

Invariant: no process starts.  The test sends what a process would send on its channel, and says
when and how it ends.
"""

import json
import os
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.support.fakes import PortReactor


@implementer(IProcessTransport)
class FakeProcess(StringTransport):
    """
    A process that was spawned.

    @ivar signals: the signals that it was sent.
    @ivar inherited: its descriptors by number, each with its L{os.fstat} at the start.
    """

    pid: int | None = None

    def __init__(
        self,
        pid: int,
        protocol: Any,
        command: list[str],
        environment: dict[str, str],
        childFDs: dict[int, Any],
    ):
        super().__init__()
        self.pid = pid
        self.protocol = protocol
        self.command = command
        self.environment = environment
        self.childFDs = childFDs
        self.inherited = {
            number: os.fstat(descriptor)
            for number, descriptor in childFDs.items()
            if isinstance(descriptor, int)
        }
        self.signals: list[str] = []
        protocol.makeConnection(self)

    def signalProcess(self, signal: str) -> None:
        if self.pid is None:
            raise ProcessExitedAlready
        self.signals.append(signal)

    def end(self, status: int | None = 0, signal: int | None = None) -> None:
        """
        End, as the kernel tells it.
        """
        self.pid = None
        done = ProcessTerminated(status, signal) if status or signal else ProcessDone(0)
        self.protocol.processEnded(Failure(done))

    # What the interface has, and no worker is asked.
    def closeStdin(self) -> None: ...
    def closeStdout(self) -> None: ...
    def closeStderr(self) -> None: ...
    def closeChildFD(self, descriptor: int) -> None: ...
    def writeToChild(self, childFD: int, data: bytes) -> None: ...


class FarEnd:
    """
    The other process's end of a channel.
    """

    def __init__(self, near: Any):
        """
        @param near: the protocol of the end that is ours.
        """
        self.near = near
        self._heard = 0

    def send(self, **message: Any) -> None:
        """
        Send a message.
        """
        data = json.dumps(message).encode()
        self.near.dataReceived(struct.pack("!I", len(data)) + data)

    def received(self) -> list[dict[str, Any]]:
        """
        The messages since the last call.
        """
        data = self.near.transport.value()[self._heard :]
        self._heard += len(data)
        messages = []
        while data:
            (length,) = struct.unpack("!I", data[:4])
            messages.append(json.loads(data[4 : 4 + length]))
            data = data[4 + length :]
        return messages


class ProcessReactor(PortReactor):
    """
    A reactor that starts no process, and whose loop does what the test says.

    @ivar processes: those that were spawned.
    @ivar far_ends: the channels that were adopted.
    @ivar balancer: calls for the next turns of the loop; when none is left, time passes.
    @ivar broken: the error of each spawn; C{None} for none.
    @ivar stopped: how often it was told to stop.
    """

    broken: OSError | None = None

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[FakeProcess] = []
        self.far_ends: list[FarEnd] = []
        self.balancer: list[Callable[[], object]] = []
        self.stopped = 0

    def spawnProcess(
        self,
        processProtocol: Any,
        executable: str,
        args: list[str],
        env: dict[str, str],
        childFDs: dict[int, Any],
    ) -> FakeProcess:
        if self.broken is not None:
            raise self.broken
        pid = 1000 + len(self.processes)
        process = FakeProcess(pid, processProtocol, [executable, *args[1:]], env, childFDs)
        self.processes.append(process)
        return process

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Factory) -> None:
        os.fstat(descriptor)
        near: Any = factory.buildProtocol(None)  # type: ignore[arg-type]
        near.makeConnection(StringTransport())
        self.far_ends.append(FarEnd(near))

    def iterate(self, delay: float) -> None:
        self.advance(delay)
        if self.balancer:
            self.balancer.pop(0)()

    def stop(self) -> None:
        self.stopped += 1

    def sigTerm(self, number: int, frame: object = None) -> None:
        super().sigTerm(number)
        self.stop()
