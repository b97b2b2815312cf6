"""
Builds daemons for the unit tests, on a fake reactor.
"""

import io
import os
import signal
import sys

from twisted.application.service import Service
from twisted.trial.unittest import SynchronousTestCase

from echod._util.signals import OTHER_SIGNALS, STOP_SIGNALS
from echod.options import Options
from echod.tap.build import build
from tests.support.fakes import FakeConnection, PortReactor


class Stuck(FakeConnection):
    """
    A connection whose client reads nothing, so that only an abort ends it.
    """

    bytes_echoed = 7
    paused = True

    def __init__(self, connections):
        super().__init__(connections)
        self.not_taken = (1, 0, 0)

    def abort(self, reason=None):
        self._connections.remove(self, reason)


class BrokenService(Service):
    """
    A service with a bug.
    """

    def startService(self):
        raise LookupError("a bug")


class ServiceTestCase(SynchronousTestCase):
    """
    Builds a daemon on a fake reactor.
    """

    local = ("--port", "0", "--interface", "127.0.0.1")

    def setUp(self):
        for number in (*STOP_SIGNALS, *OTHER_SIGNALS):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.reactor = PortReactor()
        self.addCleanup(self.reactor.close)
        self.stderr = io.StringIO()
        self.patch(sys, "__stderr__", self.stderr)
        self.stdout = io.StringIO()
        self.patch(sys, "stdout", self.stdout)

    def options(self, *args, twistd=None):
        options = Options()
        options.parent = twistd
        options.parseOptions(args)
        return options

    def build(self, *args, twistd=None, inherited=None):
        return build(self.reactor, self.options(*args, twistd=twistd), inherited)

    def file(self, content=b""):
        path = os.path.abspath(self.mktemp())
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, 0o600)
        return path
