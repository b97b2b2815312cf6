"""
A worker: the daemon on sockets that its master has bound.

Invariant: a worker does what its master says, and ends when the master is gone.  A signal that
reaches both, such as Ctrl-C, changes nothing here that the master would not say.
"""

import signal
from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from echod._util.timers import periodic
from echod.connections.admission import Admission
from echod.connections.timeouts import CHECK_INTERVAL
from echod.net.balance import AcceptBalancer
from echod.net.listener import ListenerService
from echod.service import EchodService, ProcessContext
from echod.stats.collector import Collector
from echod.tls.keylog import KeyLog
from echod.tls.reload import CertificateStore
from echod.workers.channel import Channel, Message, adopt
from echod.workers.spawn import WorkerConfig

log = Logger(namespace="echod.workers")


class WorkerService(EchodService):
    """
    The daemon, when it is one process of several.
    """

    _channel: Channel | None = None

    # However often a worker is told to stop, it drains: the master says when to abort.
    _abort_by_signal = None

    def __init__(
        self,
        process: ProcessContext,
        listeners: Sequence[ListenerService],
        collector: Collector,
        drain_timeout: float,
        admission: Admission,
        config: WorkerConfig,
        balancer: AcceptBalancer,
        certificates: CertificateStore | None = None,
        key_log: KeyLog | None = None,
    ):
        """
        @param balancer: says whether this worker may accept.
        """
        rearming = periodic(process.reactor, CHECK_INTERVAL, "rearming the ports", self._rearm)
        super().__init__(
            process,
            listeners,
            collector,
            drain_timeout,
            admission,
            certificates=certificates,
            key_log=key_log,
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
        Listen, and open the channel to the master.
        """
        super().startService()
        self._channel = adopt(
            self._reactor, self._config.channel, self._messageReceived, self._master_gone
        )

    def _handle_signals(self) -> None:
        # The terminal's Ctrl-C reaches all processes, and the master passes it on.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        super()._handle_signals()
        if self._channel is not None:
            self._channel.send(up=True)

    def _messageReceived(self, message: Message) -> None:
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
        if question.get("snapshot"):
            return {"snapshot": self.collector.snapshot(self._config.worker).to_json()}
        return {"totals": self._totals()}

    def _master_gone(self) -> None:
        self._channel = None
        if self.running:
            log.warn("the master is gone; stopping", event="master-gone")
            self._stop()

    def stopService(self) -> Deferred[None]:
        """
        Drain, while the others accept.

        @return: a Deferred that fires when the last connection has ended.
        """
        stopping = super().stopService()
        self._balancer.leave()
        return stopping

    def _stop(self) -> None:
        if self.running:
            self._signals.stop()
