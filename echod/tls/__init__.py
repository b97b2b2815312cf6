"""
Certificates, keys and the TLS policy; TLS on the socket itself is in L{echod.net.tls}.

Invariant: a set of certificates is built and checked as a whole before it is served.  pyOpenSSL's
private names are used in C{_openssl.py} only.

Open C{context.py} first: the versions, cipher suites and groups.
"""
