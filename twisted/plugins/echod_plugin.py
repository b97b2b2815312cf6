"""
What twistd and twist find: a few lazy lines, which import nothing of echod until somebody
asks for C{echod} by name.
"""

import signal
from typing import Any

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker


class EchodMaker(ServiceMaker):
    """
    Leads to C{echod.service}.
    """

    @property
    def options(self) -> Any:
        """
        The options' class.  While its modules are imported, SIGINT ends the process as
        SIGTERM does, and does not raise KeyboardInterrupt: a traceback, or nothing at all
        if some C{except} on the way swallows it, and the daemon starts all the same.  What
        a daemon that runs survives is survived here, too.
        """
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, signal.SIG_IGN)
        return super().options


echod = EchodMaker("echod", "echod.tap", "A TCP echo daemon (RFC 862).", "echod")

eager = Reactor("echod", "echod.net.reactor", "epoll(7) with direct dispatch, as echod runs on.")
