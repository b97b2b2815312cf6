"""
Certificates, keys, and the policy that TLS is spoken with; the TLS of the socket itself is in
L{echod.net.tls}.

Invariant: a set of certificates is built and checked as a whole before it is served.  pyOpenSSL's
private names are used in C{_openssl.py} alone.

Open C{context.py} first: the versions, cipher suites and groups.
"""
