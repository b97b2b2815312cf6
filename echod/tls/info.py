"""
What a TLS handshake has negotiated, for the access record, and why one has failed.

Invariant: OpenSSL is queried once for each connection, after its handshake or at its end, since
its answers during a handshake are not final.
"""

from datetime import UTC, datetime
from typing import Any

from OpenSSL import SSL

from echod.tls._openssl import has_peer_finished, is_resumed, reason_text, verify_error
from echod.tls.certificate import (
    MalformedCertificateError,
    peer_certificate,
    subject_text,
    validity,
)
from echod.tls.credentials import serial_text

MAX_CHARACTERS = 256
"""How many characters of a subject or of a name are logged."""


def is_complete(connection: SSL.Connection) -> bool:
    """
    Whether the handshake is complete: the client's Finished message has come and was correct.
    """
    return has_peer_finished(connection)


def has_said_hello(connection: SSL.Connection | None) -> bool:
    """
    Whether the client has begun a handshake: its whole ClientHello has come.

    @param connection: C{None} if the transport has dropped it.
    """
    return connection is not None and connection.client_random() is not None


def version(connection: SSL.Connection | None) -> str:
    """
    The TLS version that was negotiated, such as C{TLSv1.3}.  Before the end of the handshake it
    is only the highest possible one.
    """
    return "" if connection is None else connection.get_protocol_version_name()


def session_fields(connection: SSL.Connection | None) -> dict[str, str]:
    """
    The fields of the access record: what was negotiated.  If the handshake is not complete, only
    the name that the client asked for; if the transport has dropped the connection, none.

    @return: C{tls_version}, C{tls_cipher} and C{tls_resumed} always; C{tls_group}, C{tls_sni},
        C{tls_alpn}, and the client's C{tls_subject} and C{tls_serial} if there are any; free of
        control characters.  In TLS 1.2, OpenSSL knows the name of a resumed session only if there
        are several certificates.
    """
    fields: dict[str, str] = {}
    if connection is None:
        return fields
    if is_complete(connection):
        fields["tls_version"] = version(connection)
        fields["tls_cipher"] = connection.get_cipher_name() or ""
        fields["tls_group"] = connection.get_group_name() or ""
        fields["tls_resumed"] = {True: "yes", False: "no", None: ""}[is_resumed(connection)]
        fields["tls_alpn"] = _text(connection.get_alpn_proto_negotiated())
        fields |= _client(connection)
    fields["tls_sni"] = _text(connection.get_servername() or b"")
    return {name: value for name, value in fields.items() if value}


def _text(name: bytes) -> str:
    if not name:
        return ""
    # A semicolon would look like the start of another field in a line of the log.
    shown = (chr(c) if 0x20 < c < 0x7F and c != ord(";") else f"\\x{c:02x}" for c in name)
    return "".join(shown)[:MAX_CHARACTERS]


def _client(connection: SSL.Connection) -> dict[str, str]:
    try:
        certificate = peer_certificate(connection)
    except MalformedCertificateError:
        return {"tls_subject": "malformed"}
    if certificate is None:
        return {}
    return {
        "tls_subject": subject_text(certificate)[:MAX_CHARACTERS],
        "tls_serial": serial_text(certificate.serial_number)[:MAX_CHARACTERS],
    }


def client_certificate_expired(connection: SSL.Connection) -> bool:
    """
    Whether a client has resumed a session although its certificate has expired since, or cannot
    be parsed.  OpenSSL checks the certificate only in a full handshake.
    """
    if not is_resumed(connection):
        return False
    try:
        certificate = peer_certificate(connection)
        return certificate is not None and validity(certificate)[1] < datetime.now(UTC)
    except MalformedCertificateError:
        return True


def failure_text(connection: Any, error: BaseException | None) -> str:
    """
    Why a handshake, or the connection after it, failed, as OpenSSL's text.
    """
    return ": ".join(filter(None, (reason_text(error), verify_error(connection))))
