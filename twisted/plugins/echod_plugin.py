"""
What twistd and twist find: two lazy lines, which import nothing of echod until somebody
asks for C{echod} by name.
"""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

echod = ServiceMaker("echod", "echod.service", "A TCP echo daemon (RFC 862).", "echod")

eager = Reactor("echod", "echod.reactor", "epoll(7) with direct dispatch, as echod runs on.")
