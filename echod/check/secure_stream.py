"""
A stream inside TLS for a client that wants to see all of it: OpenSSL in memory, between a
stream and its reader, with an end for each direction.  Twisted's own TLS transport has no
half-close (#5341).

The rule of this room: what is encrypted leaves in the turn in which it was made, and what
is decrypted is never held here; so the bounds are those of the stream below.
"""

import re
from datetime import UTC, datetime

from cryptography import x509
from OpenSSL import SSL

from echod._util.sockets import printable
from echod.check.results import Failed, Outcome, Session
from echod.check.stream import ByteStream
from echod.tls.certificate import MalformedCertificate, names, peer_certificate, validity

RECORD_BYTES = 16384
"""The longest plaintext of one TLS record (RFC 8446 5.1)."""

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
        return tuple(map(printable, names(certificate)))
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
    reasons = [reason for *_, reason in error.args[0]] if error.args else []
    for reason in reasons:
        if reason in _PLAIN_WORDS:
            return _PLAIN_WORDS[reason]
        if alert := _ALERT.fullmatch(reason):
            return f"the server's alert: {alert[1]}"
    return ", ".join(reasons) or "OpenSSL does not say why"


class SecureStream:
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

    def session(self) -> Session:
        """
        What was agreed on.
        """
        tls = self._tls
        group_name = getattr(tls, "get_group_name", None)  # since pyOpenSSL 25.1
        return Session(
            version=tls.get_protocol_version_name(),
            cipher=tls.get_cipher_name() or "",
            group=group_name() if group_name else None,
            alpn=printable(tls.get_alpn_proto_negotiated().decode("latin-1")) or None,
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
                    raise Failed(Outcome.CLOSED_EARLY, text) from None
                raise Failed(Outcome.TLS_REFUSED, reason_text(error)) from None

    async def write(self, piece: bytes) -> None:
        """
        See L{ByteStream}.
        """
        for start in range(0, len(piece), RECORD_BYTES):
            try:
                self._tls.sendall(piece[start : start + RECORD_BYTES])
            except SSL.Error as error:
                # Reading has met the end of it.
                raise Failed(Outcome.TLS_REFUSED, reason_text(error)) from None
            await self._flush()

    async def finish(self) -> None:
        """
        Send our close_notify, which ends our direction and no other (RFC 8446 6.1).
        """
        try:
            self._tls.shutdown()
        except SSL.Error as error:
            raise Failed(Outcome.TLS_REFUSED, reason_text(error)) from None
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
