"""
TLS for the client: what it trusts, and a stream through it.

Invariant: no byte is believed before the server's certificate has been verified, unless
C{--insecure} says so.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import ip_address

from cryptography import x509
from OpenSSL import SSL
from service_identity.pyopenssl import verify_hostname, verify_ip_address

from echod._util.text import escape
from echod.check.results import CheckFailed, Outcome, TLSSession
from echod.check.stream import ByteStream
from echod.tls._openssl import RECORD_BYTES, reasons
from echod.tls.certificate import MalformedCertificate, names, peer_certificate, validity
from echod.tls.context import VERSIONS, use_credentials
from echod.tls.credentials import CredentialsError, read_key_pair

_PLAIN_WORDS = {
    "wrong version number": "the server does not speak TLS",
    "packet length too long": "the server does not speak TLS",
    "record layer failure": "the server does not speak TLS",
    # It answers the ClientHello with the ClientHello.
    "unexpected message": "the server does not speak TLS, it echoes",
    "unexpected eof while reading": "the server closed the connection",
}


_ALERT = re.compile("(?:ssl/tls|tls|sslv3|tlsv1|tlsv13) (?:alert )?(.+)")
"""How OpenSSL names what it was told by an alert."""


def certificate_names(certificate: x509.Certificate | None) -> tuple[str, ...]:
    """
    The names in a certificate, fit to be shown (subjectAltName, RFC 5280 4.2.1.6).
    """
    if certificate is None:
        return ()
    try:
        return tuple(map(escape, names(certificate)))
    except MalformedCertificate:
        return ("malformed",)


def shown_names(tls: SSL.Connection) -> tuple[str, ...]:
    """
    The names in the certificate that the server has shown.
    """
    try:
        return certificate_names(peer_certificate(tls))
    except MalformedCertificate:
        return ("malformed",)


def _days_left(tls: SSL.Connection) -> int:
    try:
        certificate = peer_certificate(tls)
        left = validity(certificate)[1] - datetime.now(UTC) if certificate else None
    except MalformedCertificate:
        left = None
    return left.days if left else 0


def reason_text(error: SSL.Error) -> str:
    """
    Why OpenSSL, or the server by an alert, will not go on.
    """
    if isinstance(error, SSL.SysCallError):
        return "the server closed the connection"
    given = reasons(error)
    for reason in given:
        if reason in _PLAIN_WORDS:
            return _PLAIN_WORDS[reason]
        if alert := _ALERT.fullmatch(reason):
            return f"the server's alert: {alert[1]}"
    return ", ".join(given) or "OpenSSL does not say why"


class TLSStream:
    """
    A stream inside TLS; it is a L{ByteStream} as well.
    """

    def __init__(self, stream: ByteStream, tls: SSL.Connection, verified: bool):
        self._stream = stream
        self._tls = tls
        self._verified = verified
        self._cut = False

    async def handshake(self) -> None:
        """
        Shake hands.

        @raise SSL.Error: when that fails.
        """
        while True:
            try:
                self._tls.do_handshake()
            except SSL.WantReadError:
                await self._flush()
                await self._feed()
            except SSL.Error:
                await self._flush()
                raise
            else:
                await self._flush()
                return

    async def _feed(self) -> None:
        """
        Give OpenSSL what has come.
        """
        piece = await self._stream.read()
        if piece:
            self._tls.bio_write(piece)
        else:
            self._cut = True
            self._tls.bio_shutdown()

    async def _flush(self) -> None:
        """
        Send what OpenSSL has made.
        """
        try:
            while True:
                await self._stream.write(self._tls.bio_read(65536))
        except SSL.WantReadError:
            return

    def session(self) -> TLSSession:
        """
        What was agreed on.
        """
        tls = self._tls
        group_name = getattr(tls, "get_group_name", None)  # since pyOpenSSL 25.1
        return TLSSession(
            version=tls.get_protocol_version_name(),
            cipher=tls.get_cipher_name() or "",
            group=group_name() if group_name else None,
            alpn=escape(tls.get_alpn_proto_negotiated().decode("latin-1")) or None,
            names=shown_names(tls),
            days_left=_days_left(tls),
            verified=self._verified,
        )

    async def read(self) -> bytes:
        """
        See L{ByteStream}.  The end is the peer's close_notify: without one, a stream that
        was cut off on its way would look whole (RFC 8446 6.1).
        """
        while True:
            try:
                return self._tls.recv(65536)
            except SSL.WantReadError:
                await self._flush()
                await self._feed()
            except SSL.ZeroReturnError:
                return b""
            except SSL.Error as error:
                if self._cut:
                    text = "the server closed without a close_notify"
                    raise CheckFailed(Outcome.CLOSED_EARLY, text) from None
                raise CheckFailed(Outcome.TLS_REFUSED, reason_text(error)) from None

    async def write(self, piece: bytes) -> None:
        """
        See L{ByteStream}.
        """
        for start in range(0, len(piece), RECORD_BYTES):
            try:
                self._tls.sendall(piece[start : start + RECORD_BYTES])
            except SSL.Error as error:
                # Reading has met the end of it.
                raise CheckFailed(Outcome.TLS_REFUSED, reason_text(error)) from None
            await self._flush()

    async def finish(self) -> None:
        """
        Send our close_notify, which ends our direction and no other (RFC 8446 6.1).
        """
        try:
            self._tls.shutdown()
        except SSL.Error as error:
            raise CheckFailed(Outcome.TLS_REFUSED, reason_text(error)) from None
        await self._flush()

    def pause(self) -> None:
        """
        See L{ByteStream}.
        """
        self._stream.pause()

    def abort(self) -> None:
        """
        See L{ByteStream}.
        """
        self._stream.abort()

    async def lose(self) -> None:
        """
        See L{ByteStream}.
        """
        await self._stream.lose()


_NOT_TRUSTED = {
    9: "the certificate is not valid yet",
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the chain ends in a self-signed certificate that is not trusted",
    20: "the certificate's issuer is not trusted",
    21: "the certificate's issuer is not trusted",
    26: "the certificate is not one for a server",
}
"""The errors of X509_STORE_CTX_get_error(3) that people meet."""


class FileError(ValueError):
    """
    A certificate, key or list of authorities cannot be used.  The text is one line.
    """


class ClientTLS:
    """
    How to speak TLS with a server: whom to trust, what to show, what to ask for.
    """

    def __init__(
        self,
        name: str | None,
        *,
        authorities: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
        alpn: Sequence[str] = (),
        version: str | None = None,
        verify: bool = True,
    ):
        """
        @param name: the host name or IP address that the certificate is to be for, as
            L{server_name<echod._util.values.server_name>} has it.
        @param authorities: a PEM file of those to trust; C{None} for the system's.
        @param certificate: a PEM file to show to the server, its chain included.
        @param key: a PEM file; C{None} when it is in C{certificate}.
        @param version: C{"1.2"} or C{"1.3"} and no other.
        @raise BadFile: when a file cannot be used.
        """
        self._name = name
        self._verify = verify
        self._untrusted: str | None = None
        self._context = context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(VERSIONS[version or "1.2"])
        if version:
            context.set_max_proto_version(VERSIONS[version])
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        if alpn:
            context.set_alpn_protos([word.encode("ascii") for word in alpn])
        if verify:
            context.set_verify(SSL.VERIFY_PEER, self._judged)
            if authorities is None:
                context.set_default_verify_paths()
            else:
                _load_authorities(context, authorities)
        if certificate is not None:
            try:
                use_credentials(context, read_key_pair(certificate, key))
            except CredentialsError as error:
                raise FileError(f"--{error.kind}: {escape(str(error))}") from None

    def _judged(self, _: object, certificate: object, number: int, depth: int, ok: int) -> bool:
        if not ok:
            self._untrusted = _NOT_TRUSTED.get(number, f"the certificate fails check {number}")
        return bool(ok)

    async def secure(self, stream: ByteStream) -> "TLSStream":
        """
        Shake hands, and see whether the server is the one that was meant.

        @raise Failed: when it is not, or does not speak TLS with us.
        """
        connection = SSL.Connection(self._context, None)
        connection.set_connect_state()
        if self._name is not None and _address(self._name) is None:
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        secured = TLSStream(stream, connection, self._verify)
        self._untrusted = None
        try:
            await secured.handshake()
        except SSL.Error as error:
            reason = self._untrusted or reason_text(error)
            # The alert that says why is on its way to the server.
            raise CheckFailed(Outcome.TLS_REFUSED, reason) from None
        if self._verify:
            _check_name(connection, self._name or "")
        return secured


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


def _check_name(connection: SSL.Connection, name: str) -> None:
    try:
        if _address(name) is None:
            verify_hostname(connection, name)
        else:
            # A zone is this machine's name for a link, and in no certificate.
            verify_ip_address(connection, name.partition("%")[0])
    except Exception:
        # Another name, or whatever the parser meets in a certificate.
        names = ", ".join(shown_names(connection)) or "nobody"
        text = f"the certificate is for {names}, not for {escape(name)}"
        raise CheckFailed(Outcome.WRONG_NAME, text) from None
