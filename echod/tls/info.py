"""
What a TLS handshake has agreed on, for the access record, and why one has failed.

Invariant: openSSL is asked once a connection, after its handshake or at its
end, and only what it tells then is believed.
"""

from datetime import UTC, datetime
from typing import Any

from OpenSSL import SSL

from echod.tls._openssl import has_peer_finished, is_resumed, reason_text, verify_error
from echod.tls.certificate import MalformedCertificate, peer_certificate, subject_text, validity
from echod.tls.credentials import serial_text

MAX_CHARACTERS = 256
"""How much of a subject or of a name is logged."""


def is_complete(connection: SSL.Connection) -> bool:
    """
    Whether the handshake is over, both sides having proved that they had the same.
    """
    return has_peer_finished(connection)


def has_said_hello(connection: SSL.Connection | None) -> bool:
    """
    Whether the client has begun a handshake: its first message has come, and whole.
    C{None} stands for a connection that is forgotten.
    """
    return connection is not None and connection.client_random() is not None


def version(connection: SSL.Connection | None) -> str:
    """
    The version that was agreed on, such as C{TLSv1.3}; to be asked for after the handshake,
    since before its end it is the one that was hoped for.
    """
    return "" if connection is None else connection.get_protocol_version_name()


def session_fields(connection: SSL.Connection | None) -> dict[str, str]:
    """
    What was agreed on; nothing when that is forgotten with the connection, and before the
    end of the handshake the name alone that was asked for.

    @return: C{tls_version}, C{tls_cipher} and C{tls_resumed} always; C{tls_group},
        C{tls_sni}, C{tls_alpn}, and the client's C{tls_subject} and C{tls_serial}, when
        there are such; free of control characters.  In TLS 1.2, OpenSSL knows the name of
        a resumed session only where there are several certificates.
    """
    facts: dict[str, str] = {}
    if connection is None:
        return facts
    if is_complete(connection):
        facts["tls_version"] = version(connection)
        facts["tls_cipher"] = connection.get_cipher_name() or ""
        facts["tls_group"] = connection.get_group_name() or ""
        facts["tls_resumed"] = {True: "yes", False: "no", None: ""}[is_resumed(connection)]
        facts["tls_alpn"] = _text(connection.get_alpn_proto_negotiated())
        facts |= _client(connection)
    facts["tls_sni"] = _text(connection.get_servername() or b"")
    return {name: value for name, value in facts.items() if value}


def _text(name: bytes) -> str:
    if not name:
        return ""
    # Also free of what could pass for another fact in a line of the log.
    shown = (chr(c) if 0x20 < c < 0x7F and c != ord(";") else f"\\x{c:02x}" for c in name)
    return "".join(shown)[:MAX_CHARACTERS]


def _client(connection: SSL.Connection) -> dict[str, str]:
    try:
        certificate = peer_certificate(connection)
    except MalformedCertificate:
        return {"tls_subject": "malformed"}
    if certificate is None:
        return {}
    return {
        "tls_subject": subject_text(certificate)[:MAX_CHARACTERS],
        "tls_serial": serial_text(certificate.serial_number)[:MAX_CHARACTERS],
    }


def client_certificate_expired(connection: SSL.Connection) -> bool:
    """
    Whether a session was resumed by a client whose certificate has ended in the meantime,
    or cannot be read.  OpenSSL looks at the certificate in a full handshake only.
    """
    if not is_resumed(connection):
        return False
    try:
        certificate = peer_certificate(connection)
        return certificate is not None and validity(certificate)[1] < datetime.now(UTC)
    except MalformedCertificate:
        return True


def failure_text(connection: Any, error: BaseException | None) -> str:
    """
    Why a handshake, or what came after it, failed, in OpenSSL's words.
    """
    return ": ".join(filter(None, (reason_text(error), verify_error(connection))))
