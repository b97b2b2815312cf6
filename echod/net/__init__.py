"""
Sockets: the reactor, ports, transports with and without TLS, endpoints and listeners.

Invariant: two Python calls stand between recv(2) and send(2).  Twisted's private names are used in
this package alone, and a test holds the list of them.

Open C{listener.py} first, then C{transport.py} and C{reactor.py}: the way of one byte.
"""
