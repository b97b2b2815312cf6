"""
A worker: the daemon on sockets that its parent has bound.

Invariant: a worker does what its parent says, and ends when the parent is
gone.  A signal that reaches both, such as Ctrl-C, changes nothing here that the parent
would not say.
"""

import os
import signal
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from echod._util.signals import Signals
from echod._util.timers import periodic
from echod.connections.timeouts import CHECK_INTERVAL
from echod.net.balance import AcceptBalancer, SharedCounters
from echod.net.endpoints import InheritedEndpoint
from echod.options import Options
from echod.service import EchodService
from echod.systemd import InheritedSocket
from echod.workers.channel import Channel, Message, adopt
from echod.workers.spawn import WorkerConfig

log = Logger(namespace="echod.workers")


class WorkerService(EchodService):
    """
    The daemon, when it is one process of several.
    """

    _channel: Channel | None = None

    # However often a worker is told to stop, it drains: aborting is the parent's to say.
    _abort_by_signal = None

    def __init__(
        self,
        reactor: Any,
        options: Options,
        max_connections: int,
        config: WorkerConfig,
        process_signals: Signals | None = None,
    ):
        """
        @param max_connections: its share, or less for want of descriptors.
        """
        super().__init__(reactor, options, max_connections, process_signals=process_signals)
        self._config = config
        table = SharedCounters(config.table, len(config.shares))
        os.close(config.table)
        self._turns = AcceptBalancer(
            table, config.place, max_connections, lambda: len(self.connections)
        )
        # At once, so that others know who has room.
        self.connections.on_removed = self._turns.publish
        looking = periodic(reactor, CHECK_INTERVAL, "looking whose turn it is", self._look)
        looking.setServiceParent(self)
        self._log.worker = config.worker

    def add_inherited(self) -> None:
        """
        Listen on what was handed over.
        """
        for place, each in enumerate(self._config.listeners, self._config.first):
            endpoint = InheritedEndpoint(self._reactor, InheritedSocket(each.name, place))
            tls = self.certificates if each.tls else None
            self.add_listener(each.name, each.option, endpoint, tls)
        for listener, each in zip(self.listeners(), self._config.listeners, strict=True):
            listener.balancer = self._turns
            # The queue of a socket that the parent was lent does not end with us.
            listener.leaves_queue = each.borrowed

    def _look(self) -> None:
        self._turns.publish()
        for listener in self.listeners():
            listener.rearm()

    def startService(self) -> None:
        """
        Listen, and take hold of the lifeline.
        """
        super().startService()
        self._channel = adopt(self._reactor, self._config.channel, self._told, self._parent_gone)

    def _handle_signals(self) -> None:
        # The terminal's Ctrl-C reaches all processes, and the parent passes it on.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        super()._handle_signals()
        if self._channel is not None:
            self._channel.send(up=True)

    def _told(self, message: Message) -> None:
        number = message.get("ask")
        match message.get("do"):
            case "reload":
                self.reload()
            case "abort":
                self.abort_all()
            case "stop":
                self._leave()
        if number is not None and self._channel is not None:
            self._channel.send(answer=number, **self._answer(message))

    def _answer(self, question: Message) -> Message:
        if question.get("snapshot"):
            return {"snapshot": self.collector.snapshot(self._config.worker).to_json()}
        return {"totals": self._totals()}

    def _parent_gone(self) -> None:
        self._channel = None
        if self.running:
            log.warn("the parent is gone; stopping", event="master-gone")
            self._leave()

    def stopService(self) -> Deferred[None]:
        """
        Drain, while the others accept.

        @return: a Deferred that fires when the last connection has ended.
        """
        closing = super().stopService()
        self.connections.on_removed = None
        self._turns.leave()
        return closing

    def _leave(self) -> None:
        if self.running:
            self._signals.stop()
