"""
Sockets: the reactor, ports, transports with and without TLS, endpoints and listeners.

Invariant: there are two Python calls between recv(2) and send(2).  Twisted's private names are
used in this package only, and a test has the list of them.  The classes here extend Twisted's, so
their names are camelCase.

Open C{listener.py} first, then C{transport.py} and C{reactor.py}: they show how one byte travels.
"""
