"""
echod: a TCP and UDP echo daemon (RFC 862) that loses no byte of a TCP client, as a plugin for
C{twistd}.

Reading order: C{twisted/plugins/echod_plugin.py} names L{echod.tap}.  Its C{makeService} builds an
L{EchodService<echod.service.EchodService>} with the listeners of L{echod.net.listener}.  For each
connection, L{EchoFactory<echod.protocol.EchoFactory>} makes an L{Echo<echod.protocol.Echo>}, which
writes to a transport of L{echod.net.transport}.  The reactor is that of L{echod.net.reactor}.

Packages: C{connections} (live connections and their limits), C{net} (sockets), C{tls},
C{proxyprotocol}, C{logs}, C{stats}, C{admin} (HTTP), C{workers} (several processes), C{check} (the
client C{echod-check}) and C{_util}.  Imports go down only; C{pyproject.toml} has the order.
"""

__version__ = "0.1.0"
