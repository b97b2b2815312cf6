"""
The PROXY protocol, versions 1 and 2, by which a proxy tells the server the client's address.

Invariant: a header is accepted from trusted networks only, and no byte after it is read.

Open C{protocol.py} first: the protocol that reads the header and then hands over to C{Echo}.
"""

V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
"""How a header of version 2 begins (C{doc/proxy-protocol.txt} of HAProxy, section 2.2)."""
