"""
An X.509 certificate: its names, its subject, and when it is valid.

Invariant: whatever a certificate holds, nothing but L{MalformedCertificate} is raised here.
The parser reads some parts only when they are asked for, and raises errors that share no
class (C{DuplicateExtension}, C{UnsupportedGeneralNameType}, C{InvalidVersion}).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from cryptography import x509

from echod._util.text import escape

MAX_REASON_CHARACTERS = 120

T = TypeVar("T")


class MalformedCertificate(ValueError):
    """
    A certificate cannot be read.  The text says why, in the parser's words.
    """


def _parsed(parse: Callable[[], T]) -> T:
    try:
        return parse()
    except Exception as error:
        reason = escape(str(error) or type(error).__name__)
        raise MalformedCertificate(reason[:MAX_REASON_CHARACTERS]) from None


def load_chain(pem: bytes) -> tuple[x509.Certificate, ...]:
    """
    Read all the certificates in a PEM file, with the dates of each.

    @raise MalformedCertificate: when it holds none, or one that cannot be read.
    """
    chain = tuple(_parsed(lambda: x509.load_pem_x509_certificates(pem)))
    for each in chain:
        validity(each)
    return chain


def validity(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """
    From when until when a certificate is valid, in UTC.

    @raise MalformedCertificate: when a date is none of the calendar, such as one in year 0.
    """
    return _parsed(lambda: (certificate.not_valid_before_utc, certificate.not_valid_after_utc))


def names(certificate: x509.Certificate) -> tuple[str, ...]:
    """
    What a client may compare with the name that it asked for: the host names and then the
    IP addresses among the subject alternative names, and not the common name (RFC 9525 6.3).

    @raise MalformedCertificate: when the extensions cannot be read.
    """

    def parse() -> tuple[str, ...]:
        try:
            kind = x509.SubjectAlternativeName
            found = certificate.extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return ()
        hosts = found.get_values_for_type(x509.DNSName)
        return (*hosts, *map(str, found.get_values_for_type(x509.IPAddress)))

    return _parsed(parse)


def subject_text(certificate: x509.Certificate) -> str:
    """
    The subject (RFC 4514), or C{malformed}.
    """
    try:
        return escape(_parsed(lambda: certificate.subject.rfc4514_string()))
    except MalformedCertificate:
        return "malformed"


def peer_certificate(connection: Any) -> x509.Certificate | None:
    """
    What the peer of a TLS connection has shown; C{None} for nothing.

    @raise MalformedCertificate: when OpenSSL could read it and the parser cannot.
    """
    found: x509.Certificate | None
    found = _parsed(lambda: connection.get_peer_certificate(as_cryptography=True))
    return found


MAX_WARNING_SECONDS = 14 * 86400.0


def warning_seconds(lifetime: float) -> float:
    """
    How long before its end a certificate is warned of, both in seconds: a third of its life,
    and at most 14 days.  With a third left, certbot and cert-manager have renewed it.
    """
    return min(lifetime / 3, MAX_WARNING_SECONDS)
