"""
A daemon on a reactor that the test turns.
"""

import io
import os
import signal
import sys

from twisted.application.service import (
    Service,
)
from twisted.trial.unittest import SynchronousTestCase

from echod._util.signals import OTHERS, STOPS
from echod.assembly import build
from echod.options import Options
from tests.support.fakes import FakeConnection, PortReactor


class Stuck(FakeConnection):
    """
    A connection that reads nothing and ends only by an abort.
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
    A daemon on a reactor that the test turns.
    """

    local = ("--port", "0", "--interface", "127.0.0.1")

    def setUp(self):
        for number in (*STOPS, *OTHERS):
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
