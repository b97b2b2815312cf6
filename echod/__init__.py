"""
echod: a TCP echo daemon (RFC 862) on Twisted, run as C{twistd -n echod --port 9000}.

The package is flat and its imports go down only: from C{service}, the one room where the
others meet, to C{listener} and C{signals}; to C{protocol}; to the engine C{reactor},
C{port}, C{transport} and C{secure}, and C{endpoint} and C{tls}; to C{connections},
C{options}, C{observers}, C{sockets} and C{connection}.

Beside the daemon stands its client, C{echod-check}, in C{check} and the rooms below it.
"""

__version__ = "0.1.0"
