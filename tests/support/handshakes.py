"""
TLS handshakes in memory.

Invariant: both sides run to their end, and the error of each is kept.
"""

import contextlib

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLContextFactory
from zope.interface import implementer

from echod.tls.context import TLSPolicy, server_context
from echod.tls.credentials import KeyPair
from tests.support.certificates import MadeCertificate

VERSIONS = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}


def client_context(
    version: str | None = None,
    certificate: MadeCertificate | None = None,
    suites: str = "DEFAULT",
    alpn: tuple[bytes, ...] = (),
) -> SSL.Context:
    """
    A client's context, which accepts any certificate of a server.

    @param version: its only version; C{None} for all versions.
    @param certificate: its client certificate.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if version is not None:
        context.set_min_proto_version(VERSIONS[version])
        context.set_max_proto_version(VERSIONS[version])
    context.set_cipher_list(suites.encode())
    if alpn:
        context.set_alpn_protos(list(alpn))
    if certificate is not None:
        context.use_certificate(certificate.certificate)
        context.use_privatekey(certificate.key)  # type: ignore[arg-type]
        while (certificate := certificate.issuer) is not None and certificate.issuer is not None:
            context.add_extra_chain_cert(certificate.certificate)
    return context


@implementer(IOpenSSLContextFactory)
class CertificateInfo:
    """
    The argument of C{startTLS}: a certificate, with the daemon's TLS policy.
    """

    def __init__(self, made: MadeCertificate):
        chain = (made.certificate,)
        own = KeyPair("made.pem", chain, made.key, ("localhost",), None)
        self._context = server_context(TLSPolicy(), [own])

    def getContext(self) -> SSL.Context:
        return self._context


class Handshake:
    """
    A handshake of a client and a server, and then one message.

    @ivar client_error: the client's error, C{None} without one.
    @ivar server_error: the server's error.
    @ivar heard: what the server received after the handshake.
    """

    def __init__(
        self,
        server: SSL.Context,
        client: SSL.Context,
        name: bytes | None = None,
        session: SSL.Session | None = None,
    ):
        """
        @param name: the client's server name (SNI), C{None} for none.
        @param session: the session to resume.
        """
        self.server = SSL.Connection(server, None)
        self.server.set_accept_state()
        self.client = SSL.Connection(client, None)
        self.client.set_connect_state()
        if name is not None:
            self.client.set_tlsext_host_name(name)
        if session is not None:
            self.client.set_session(session)
        self.client_error: SSL.Error | None = None
        self.server_error: SSL.Error | None = None
        self.heard = b""

    def step(self) -> None:
        """
        Let each side act once on what it has received.
        """
        self.client_error = self.client_error or self._act(self.client)
        self._carry(self.client, self.server)
        self.server_error = self.server_error or self._act(self.server)
        self._carry(self.server, self.client)

    def run(self) -> "Handshake":
        """
        Do the handshake; the client sends C{word} if it succeeds.
        """
        for _ in range(4):
            self.step()
        if self.client_error is None:
            self.client.send(b"word")
            self._carry(self.client, self.server)
        try:
            self.heard = self.server.recv(100)
        except SSL.Error as error:
            self.server_error = self.server_error or error
        self._carry(self.server, self.client)
        try:
            # Tickets, and alerts of TLS 1.3 that come after the client has done its part.
            self.client.recv(100)
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            self.client_error = self.client_error or error
        return self

    def _act(self, side: SSL.Connection) -> SSL.Error | None:
        try:
            side.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            return error
        return None

    def _carry(self, sender: SSL.Connection, receiver: SSL.Connection) -> None:
        with contextlib.suppress(SSL.WantReadError):
            receiver.bio_write(sender.bio_read(1 << 16))

    @property
    def shown(self) -> list[str]:
        """
        The subjects of the server's certificates.
        """
        chain = self.client.get_peer_cert_chain(as_cryptography=True) or []
        return [each.subject.rfc4514_string() for each in chain]


def shake_hands(
    server: SSL.Context,
    client: SSL.Context,
    name: bytes | None = None,
    session: SSL.Session | None = None,
) -> Handshake:
    """
    Do the whole of it.
    """
    return Handshake(server, client, name, session).run()
