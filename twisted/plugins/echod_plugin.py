"""
The plugin, through which twistd and twist find the command C{echod}.

Invariant: nothing of echod is imported until the command line names C{echod}.
"""

import signal
from typing import Any

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker


class EchodMaker(ServiceMaker):
    """
    Names C{echod.tap}, which has the options and C{makeService}.
    """

    @property
    def options(self) -> Any:
        """
        The class of the options.

        From here on, SIGINT ends the process as SIGTERM does.  Python's KeyboardInterrupt would
        print a traceback; or an C{except} in an imported module would swallow it, and the daemon
        would start.  SIGHUP, SIGUSR1 and SIGUSR2, which do not end a running daemon, are ignored.
        """
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, signal.SIG_IGN)
        return super().options


echod = EchodMaker("echod", "echod.tap", "A TCP and UDP echo daemon (RFC 862).", "echod")

eager = Reactor("echod", "echod.net.reactor", "epoll(7) with direct dispatch, as echod runs on.")
