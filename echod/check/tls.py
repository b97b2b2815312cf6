"""
TLS for the client: L{ClientTLS} has the settings and performs the handshake, which makes a
L{TLSStream}.

Invariant: without C{--insecure}, no application data is sent or received before the server's
certificate is verified.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import ip_address

from cryptography import x509
from OpenSSL import SSL
from service_identity.pyopenssl import verify_hostname, verify_ip_address

from echod._util.text import escape
from echod.check.results import CheckError, Outcome, TLSSession
from echod.check.stream import IByteStream
from echod.tls._openssl import RECORD_BYTES, reasons
from echod.tls.certificate import MalformedCertificateError, names, peer_certificate, validity
from echod.tls.context import VERSIONS, use_credentials
from echod.tls.credentials import CredentialsError, read_key_pair

_REASON_TEXTS = {
    "wrong version number": "the server does not use TLS",
    "packet length too long": "the server does not use TLS",
    "record layer failure": "the server does not use TLS",
    # An echo server sends the ClientHello back.
    "unexpected message": "the server does not use TLS, it echoes",
    "unexpected eof while reading": "the server closed the connection",
}
"""Plain texts for OpenSSL's reasons."""

_ALERT = re.compile("(?:ssl/tls|tls|sslv3|tlsv1|tlsv13) (?:alert )?(.+)")
"""OpenSSL's reason for an error that the peer's alert caused."""

_TRUST_ERRORS = frozenset((18, 19, 20, 21))
"""The errors of a certificate that could be trusted."""

_VERIFY_ERRORS = {
    9: "the certificate is not valid yet",
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the chain ends in a self-signed certificate that is not trusted",
    20: "the certificate's issuer is not trusted",
    21: "the certificate's issuer is not trusted",
    26: "the certificate is not for a server",
}
"""Texts for the common errors of X509_STORE_CTX_get_error(3)."""


def certificate_names(certificate: x509.Certificate | None) -> tuple[str, ...]:
    """
    The names in a certificate, escaped (subjectAltName, RFC 5280 4.2.1.6).
    """
    if certificate is None:
        return ()
    try:
        return tuple(map(escape, names(certificate)))
    except MalformedCertificateError:
        return ("malformed",)


def peer_names(tls: SSL.Connection) -> tuple[str, ...]:
    """
    The names in the server's certificate.
    """
    try:
        return certificate_names(peer_certificate(tls))
    except MalformedCertificateError:
        return ("malformed",)


def _days_left(tls: SSL.Connection) -> int:
    try:
        certificate = peer_certificate(tls)
        left = validity(certificate)[1] - datetime.now(UTC) if certificate else None
    except MalformedCertificateError:
        left = None
    return left.days if left else 0


def reason_text(error: SSL.Error) -> str:
    """
    Why TLS failed, by OpenSSL's error or the server's alert.
    """
    if isinstance(error, SSL.SysCallError):
        return "the server closed the connection"
    given = reasons(error)
    for reason in given:
        if reason in _REASON_TEXTS:
            return _REASON_TEXTS[reason]
        if alert := _ALERT.fullmatch(reason):
            return f"the server's alert: {alert[1]}"
    return ", ".join(given) or "OpenSSL gives no reason"


class TLSStream:
    """
    A stream with TLS: an L{ISecureStream<echod.check.stream.ISecureStream>}.
    """

    def __init__(
        self, stream: IByteStream, tls: SSL.Connection, verified: bool, pinned: bool = False
    ):
        self._pinned = pinned
        self._stream = stream
        self._tls = tls
        self._verified = verified
        self._stream_ended = False

    async def handshake(self) -> None:
        """
        Perform the handshake.

        @raise SSL.Error: when that fails.
        """
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                await self._flush()
                await self._receive()
            except SSL.Error:
                await self._flush()
                raise
            else:
                await self._flush()
                return

    async def _receive(self) -> None:
        """
        Pass received bytes to OpenSSL.
        """
        piece = await self._stream.read()
        if piece:
            self._tls.bio_write(piece)
        else:
            self._stream_ended = True
            self._tls.bio_shutdown()

    async def _flush(self) -> None:
        """
        Send OpenSSL's output.
        """
        try:
            while True:
                await self._stream.write(self._tls.bio_read(65536))
        except SSL.WantReadError:
            return

    def session(self) -> TLSSession:
        """
        What the handshake negotiated.
        """
        tls = self._tls
        group_name = getattr(tls, "get_group_name", None)  # since pyOpenSSL 25.1
        return TLSSession(
            version=tls.get_protocol_version_name(),
            cipher=tls.get_cipher_name() or "",
            group=group_name() if group_name else None,
            alpn=escape(tls.get_alpn_proto_negotiated().decode("latin-1")) or None,
            names=peer_names(tls),
            days_left=_days_left(tls),
            verified=self._verified,
            fingerprint=self._pinned,
        )

    async def read(self) -> bytes:
        """
        See L{IByteStream}.  The stream ends with the peer's close_notify; an end of the
        connection without it may be a truncation (RFC 8446 6.1), and raises C{CheckError}.
        """
        while True:
            try:
                return self._tls.recv(65536)
            except SSL.WantReadError:
                await self._flush()
                await self._receive()
            except SSL.ZeroReturnError:
                return b""
            except SSL.Error as error:
                if self._stream_ended:
                    text = "the server closed without a close_notify"
                    raise CheckError(Outcome.CLOSED_EARLY, text) from None
                raise CheckError(Outcome.TLS_REFUSED, reason_text(error)) from None

    async def write(self, piece: bytes) -> None:
        """
        See L{IByteStream}.
        """
        for start in range(0, len(piece), RECORD_BYTES):
            try:
                self._tls.sendall(piece[start : start + RECORD_BYTES])
            except SSL.Error as error:
                # An error that read() has met makes OpenSSL refuse to send as well.
                raise CheckError(Outcome.TLS_REFUSED, reason_text(error)) from None
            await self._flush()

    async def finish(self) -> None:
        """
        Send a close_notify, which ends this direction only (RFC 8446 6.1).
        """
        try:
            self._tls.shutdown()
        except SSL.Error as error:
            raise CheckError(Outcome.TLS_REFUSED, reason_text(error)) from None
        await self._flush()

    def pause(self) -> None:
        """
        See L{IByteStream}.
        """
        self._stream.pause()

    def abort(self) -> None:
        """
        See L{IByteStream}.
        """
        self._stream.abort()

    async def lose(self) -> None:
        """
        See L{IByteStream}.
        """
        await self._stream.lose()


class FileError(ValueError):
    """
    A file with a certificate, a key or authorities cannot be used.  The text is one line.
    """


class ClientTLS:
    """
    The TLS settings of a client, and its handshake.
    """

    def __init__(
        self,
        name: str | None,
        *,
        authorities: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
        alpn: Sequence[bytes] = (),
        version: str | None = None,
        verify: bool = True,
        fingerprint: bytes | None = None,
    ):
        """
        @param name: the host name or IP address to verify in the certificate, as
            L{server_name<echod._util.values.server_name>} returns it.
        @param authorities: a PEM file of the authorities to trust; C{None} for the system's.
        @param certificate: a PEM file with the client certificate and its chain.
        @param key: a PEM file with its key; C{None} when the key is in C{certificate}.
        @param alpn: the ALPN protocols to offer.
        @param version: C{"1.2"} or C{"1.3"}; C{None} for both.
        @param verify: whether to verify the server's certificate.
        @param fingerprint: the SHA-256 fingerprint of the only certificate to trust; C{None} to
            verify the chain and the name.
        @raise FileError: when a file cannot be used.
        """
        self._name = name
        self._verify = verify and fingerprint is None
        self._fingerprint = fingerprint
        self._verify_error: str | None = None
        self._context = context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(VERSIONS[version or "1.2"])
        if version:
            context.set_max_proto_version(VERSIONS[version])
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        if alpn:
            context.set_alpn_protos(list(alpn))
        if self._verify:
            context.set_verify(SSL.VERIFY_PEER, self._verified)
            if authorities is None:
                context.set_default_verify_paths()
            else:
                _load_authorities(context, authorities)
        if certificate is not None:
            try:
                use_credentials(context, read_key_pair(certificate, key, "--key"))
            except CredentialsError as error:
                raise FileError(f"--{error.kind}: {escape(str(error))}") from None

    def _verified(
        self, connection: SSL.Connection, _: object, number: int, depth: int, ok: int
    ) -> bool:
        if not ok:
            text = _VERIFY_ERRORS.get(number, f"the certificate fails check {number}")
            chain = connection.get_peer_cert_chain()
            if number in _TRUST_ERRORS and chain:
                text += (
                    "; to trust it, add --ca FILE with its issuer or "
                    f"--fingerprint {chain[0].digest('sha256').decode()}; "
                    "--insecure verifies nothing"
                )
            self._verify_error = text
        return bool(ok)

    async def secure(self, stream: IByteStream) -> TLSStream:
        """
        Perform the handshake, and verify the server's certificate and name.

        @raise CheckError: when the handshake or the verification fails.
        """
        connection = SSL.Connection(self._context, None)
        connection.set_connect_state()
        if self._name is not None and _address(self._name) is None:
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        pinned = self._fingerprint is not None
        tls_stream = TLSStream(stream, connection, self._verify or pinned, pinned)
        self._verify_error = None
        try:
            await tls_stream.handshake()
        except SSL.Error as error:
            reason = self._verify_error or reason_text(error)
            raise CheckError(Outcome.TLS_REFUSED, reason) from None
        if self._fingerprint is not None:
            _verify_fingerprint(connection, self._fingerprint)
        elif self._verify:
            _verify_name(connection, self._name or "")
        return tls_stream


def _load_authorities(context: SSL.Context, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except SSL.Error:
        text = f"--ca '{escape(path)}': holds no PEM authorities; give a file that does"
        try:
            with open(path, "rb"):
                raise FileError(text) from None
        except OSError as error:
            text = f"--ca '{escape(path)}': {error.strerror}; give a file that can be read"
            raise FileError(text) from None


def _address(name: str) -> object:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _verify_fingerprint(connection: SSL.Connection, fingerprint: bytes) -> None:
    certificate = connection.get_peer_certificate()
    if certificate is None:
        raise CheckError(Outcome.TLS_REFUSED, "the server has no certificate")
    found = certificate.digest("sha256").decode()
    if found.replace(":", "").lower() != fingerprint.hex():
        text = f"the certificate has another fingerprint: {found}"
        raise CheckError(Outcome.TLS_REFUSED, text)


def _verify_name(connection: SSL.Connection, name: str) -> None:
    try:
        if _address(name) is None:
            verify_hostname(connection, name)
        else:
            # The zone of a link-local address is not in a certificate.
            verify_ip_address(connection, name.partition("%")[0])
    except Exception:
        # Another name, or any error of the parser about a malformed certificate.
        names = ", ".join(peer_names(connection)) or "no name"
        text = f"the certificate is for {names}, not for {escape(name)}"
        raise CheckError(Outcome.WRONG_NAME, text) from None
