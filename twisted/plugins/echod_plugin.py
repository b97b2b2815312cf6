"""
What twistd and twist find: one lazy line, which imports nothing of echod until
somebody asks for C{echod} by name.
"""

from twisted.application.service import ServiceMaker

echod = ServiceMaker("echod", "echod.service", "A TCP echo daemon (RFC 862).", "echod")
