"""
The PROXY protocol, versions 1 and 2: the client's address, told by the proxy in front of us.

Invariant: a header is believed from trusted networks only, and not one byte behind it is read.

Open C{protocol.py} first: the protocol that stands before C{Echo} until the header has come.
"""
