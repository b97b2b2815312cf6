"""
echod: a TCP echo daemon (RFC 862) that never loses a byte, as a plugin for C{twistd}.

To read it: C{twisted/plugins/echod_plugin.py} names L{echod.tap}, whose C{makeService} builds an
L{EchodService<echod.service.EchodService>}; its listeners are L{echod.net.listener}, their factory
makes an L{Echo<echod.protocol.Echo>} for each connection, and that one writes to a transport of
L{echod.net.transport}, which the reactor of L{echod.net.reactor} wakes.

Packages: C{connections} (who is connected, who may, for how long), C{net} (sockets), C{tls},
C{proxyprotocol}, C{logs}, C{stats} (figures), C{admin} (HTTP), C{workers} (several processes),
C{check} (the client C{echod-check}), C{_util}.  Imports go down only; C{pyproject.toml} has the
order.
"""

__version__ = "0.1.0"
