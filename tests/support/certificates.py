"""
Certificates for tests, made while the tests run.

Invariant: no files.  Keys are elliptic-curve keys (P-256), so a certificate costs about a
millisecond.
"""

import base64
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

GOOD_FOR_BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True)
class MadeCertificate:
    """
    A certificate, its private key, and its issuer.

    @ivar issuer: the signer; C{None} if the certificate is self-signed.
    """

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes
    issuer: "MadeCertificate | None"

    @property
    def cert_pem(self) -> bytes:
        """
        The certificate alone.
        """
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """
        The private key, not encrypted.
        """
        return self._key_pem(NoEncryption())

    @property
    def chain(self) -> bytes:
        """
        What a server sends: the certificate and its issuers, without the self-signed root.
        """
        above = self.issuer
        pem = self.cert_pem
        while above is not None and above.issuer is not None:
            pem += above.cert_pem
            above = above.issuer
        return pem

    def encrypted_key_pem(self, password: bytes) -> bytes:
        """
        The private key, encrypted.
        """
        return self._key_pem(BestAvailableEncryption(password))

    def _key_pem(self, encryption: KeySerializationEncryption) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def make_certificate(
    names: Sequence[str] = ("localhost",),
    issuer: MadeCertificate | None = None,
    *,
    authority: bool = False,
    days: float = 1,
    valid_in_days: int | None = None,
    key: CertificateIssuerPrivateKeyTypes | None = None,
    usages: Sequence[x509.ObjectIdentifier] = GOOD_FOR_BOTH,
    common_name: str | None = None,
) -> MadeCertificate:
    """
    Make a key and a certificate for it.

    @param names: host names and IP addresses.
    @param issuer: the authority that signs it, made with C{authority=True}; C{None} for a
        self-signed one.
    @param authority: whether it may sign other certificates.
    @param days: days until it expires; negative for an expired one.
    @param valid_in_days: until it becomes valid, from now; C{None} for one that is, or was.
    @param key: the key to certify; C{None} for a new one.
    @param usages: what it is good for: servers, clients.
    @param common_name: the subject; C{None} for the first of the names.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or names[0])])
    signing_key = issuer.key if issuer else key
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=days)
    start = end - datetime.timedelta(days=abs(days) + 1)
    if valid_in_days is not None:
        start = now + datetime.timedelta(days=valid_in_days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
            critical=False,
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=authority,
                crl_sign=authority,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if names:
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return MadeCertificate(builder.sign(signing_key, hashes.SHA256()), key, issuer)


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def _children(der: bytes) -> list[bytes]:
    """
    The parts of a constructed value, each with its tag and size (X.690 8.1).
    """

    def value(at: int) -> tuple[int, int]:
        size, start = der[at + 1], at + 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(der[at + 2 : start])
        return start, start + size

    at, end = value(0)
    parts = []
    while at < end:
        _, after = value(at)
        parts.append(der[at:after])
        at = after
    return parts


def _version_4(parts: list[bytes]) -> None:
    parts[0] = b"\xa0\x03\x02\x01\x03"


def _ends_in_year_0(parts: list[bytes]) -> None:
    parts[4] = _tlv(0x30, _children(parts[4])[0] + _tlv(0x18, b"00000101000000Z"))


def _begins_in_year_0(parts: list[bytes]) -> None:
    parts[4] = _tlv(0x30, _tlv(0x18, b"00000101000000Z") + _children(parts[4])[1])


def _bit_string_name(parts: list[bytes]) -> None:
    name = _tlv(0x30, b"\x06\x03\x55\x04\x03" + _tlv(0x03, b"\0name"))
    parts[5] = _tlv(0x30, _tlv(0x31, name))


def _extensions(parts: list[bytes]) -> list[bytes]:
    return _children(_children(parts[-1])[0])


def _duplicate_extension(parts: list[bytes]) -> None:
    extensions = _extensions(parts)
    parts[-1] = _tlv(0xA3, _tlv(0x30, b"".join([*extensions, extensions[-1]])))


def _unsupported_name(parts: list[bytes]) -> None:
    # An x400Address, in the place of a DNS name.
    value = _tlv(0x04, _tlv(0x30, _tlv(0xA3, b"")))
    other = _tlv(0x30, b"\x06\x03\x55\x1d\x11" + value)
    kept = [each for each in _extensions(parts) if b"\x55\x1d\x11" not in each]
    parts[-1] = _tlv(0xA3, _tlv(0x30, b"".join([*kept, other])))


ODD = {
    "version 4": _version_4,
    "ends in year 0": _ends_in_year_0,
    "begins in year 0": _begins_in_year_0,
    "bit string as common name": _bit_string_name,
    "duplicate extension": _duplicate_extension,
    "unsupported name": _unsupported_name,
}
"""Certificates that a parser rejects, at once or when a part is read, by their fault."""


def odd_certificate(made: MadeCertificate, what: str) -> bytes:
    """
    A certificate with a fault, signed by its issuer's key.

    @param what: a key of L{ODD}.
    @return: PEM.
    """
    parts = _children(made.certificate.tbs_certificate_bytes)
    ODD[what](parts)
    tbs = _tlv(0x30, b"".join(parts))
    key = (made.issuer or made).key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    algorithm = _tlv(0x30, b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02")
    der = _tlv(0x30, tbs + algorithm + _tlv(0x03, b"\0" + signature))
    text = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"
