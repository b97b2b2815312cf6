"""
Reading an X.509 certificate: its names, its subject, and the dates between which it is valid.

Invariant: whatever a certificate contains, only L{MalformedCertificateError} is raised here.  The
parser reads some parts on first access, and its errors have no common class
(C{DuplicateExtension}, C{UnsupportedGeneralNameType}, C{InvalidVersion}).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from cryptography import x509

from echod._util.text import escape

MAX_REASON_CHARACTERS = 120

T = TypeVar("T")


class MalformedCertificateError(ValueError):
    """
    A certificate cannot be parsed.  The text is the parser's.
    """


def _parsed(parse: Callable[[], T]) -> T:
    try:
        return parse()
    except Exception as error:
        reason = escape(str(error) or type(error).__name__)
        raise MalformedCertificateError(reason[:MAX_REASON_CHARACTERS]) from None


def load_chain(pem: bytes) -> tuple[x509.Certificate, ...]:
    """
    Parse all certificates in a PEM file, and the dates of each.

    @raise MalformedCertificateError: when there is none, or one cannot be parsed.
    """
    chain = tuple(_parsed(lambda: x509.load_pem_x509_certificates(pem)))
    for each in chain:
        validity(each)
    return chain


def validity(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """
    The first and the last moment at which a certificate is valid, in UTC.

    @raise MalformedCertificateError: when a date does not exist, such as one in the year 0.
    """
    return _parsed(lambda: (certificate.not_valid_before_utc, certificate.not_valid_after_utc))


def names(certificate: x509.Certificate) -> tuple[str, ...]:
    """
    The names that a client may match: the host names and then the IP addresses among the subject
    alternative names, but not the common name (RFC 9525 6.3).

    @raise MalformedCertificateError: when the extensions cannot be parsed.
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
    The subject as text (RFC 4514), or C{malformed}.
    """
    try:
        return escape(_parsed(lambda: certificate.subject.rfc4514_string()))
    except MalformedCertificateError:
        return "malformed"


def peer_certificate(connection: Any) -> x509.Certificate | None:
    """
    The certificate that the peer of a TLS connection has sent; C{None} if it has sent none.

    @raise MalformedCertificateError: when OpenSSL could parse it and the parser here cannot.
    """
    found: x509.Certificate | None
    found = _parsed(lambda: connection.get_peer_certificate(as_cryptography=True))
    return found


MAX_WARNING_TIME = 14 * 86400.0
"""Seconds: 14 days."""


def warning_seconds(lifetime: float) -> float:
    """
    How long before its end a certificate is warned of, both in seconds: a third of its life,
    and at most 14 days.  With a third left, certbot and cert-manager have renewed it.
    """
    return min(lifetime / 3, MAX_WARNING_TIME)
