"""
A worker process: it serves clients on the sockets that the master has bound.

Invariant: a worker does what the master says, and ends when the master has gone.  It ignores the
SIGINT of a Ctrl-C, which reaches the master too.
"""

import signal
from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from echod._util.timers import periodic
from echod.connections.timeouts import CHECK_INTERVAL
from echod.net.balance import AcceptBalancer
from echod.service import EchodService, IListener, ProcessContext, Serving
from echod.stats.collector import Collector
from echod.workers.channel import Channel, Message, adopt
from echod.workers.spawn import WorkerConfig

log = Logger(namespace="echod.workers")


class WorkerService(EchodService):
    """
    The daemon, in a worker process.
    """

    _channel: Channel | None = None

    # A second stop signal does not abort the connections; the message "abort" of the master does.
    _abort_by_signal = None

    def __init__(
        self,
        process: ProcessContext,
        listeners: Sequence[IListener],
        collector: Collector,
        drain_timeout: float,
        serving: Serving,
        config: WorkerConfig,
        balancer: AcceptBalancer,
    ):
        """
        @param config: what the master has started this worker with.
        @param balancer: decides whether this worker accepts now.
        """
        rearming = periodic(process.reactor, CHECK_INTERVAL, "rearming the ports", self._rearm)
        super().__init__(
            process,
            listeners,
            collector,
            drain_timeout,
            serving,
            work=[rearming],
        )
        self._config = config
        self._balancer = balancer

    def _rearm(self) -> None:
        self._balancer.publish()
        for listener in self.listeners:
            listener.rearm()

    def startService(self) -> None:
        """
        Start the listeners, and open the channel to the master.
        """
        super().startService()
        self._channel = adopt(
            self._reactor, self._config.channel, self._message_received, self._master_gone
        )

    def _handle_signals(self) -> None:
        # Ctrl-C reaches all processes of the terminal; the master then stops its workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        super()._handle_signals()
        if self._channel is not None:
            self._channel.send(up=True)

    def _message_received(self, message: Message) -> None:
        number = message.get("ask")
        match message.get("do"):
            case "reload":
                self.reload()
            case "abort":
                self.abort_all()
            case "stop":
                self._stop()
        if number is not None and self._channel is not None:
            self._channel.send(answer=number, **self._answer(message))

    def _answer(self, question: Message) -> Message:
        if question.get("ready"):
            return {"not_ready": self.collector.readiness()}
        if question.get("snapshot"):
            return {"snapshot": self.collector.snapshot(self._config.worker).to_json()}
        return {"totals": self._totals()}

    def _master_gone(self) -> None:
        self._channel = None
        if self.running:
            log.warn("the master has exited; stopping", event="master-gone")
            self._stop()

    def stopService(self) -> Deferred[None]:
        """
        Stop as the daemon does, and leave the accept queue to the other workers.

        @return: a Deferred that fires when the last connection has ended.
        """
        stopping = super().stopService()
        self._balancer.leave()
        return stopping

    def _stop(self) -> None:
        if self.running:
            self._signals.stop()
