"""
Key pairs: certificates and keys, read from files and checked against each other.

Invariant: a key pair is read as a whole and checked before any part of it is used.  An error is
one line that names the file and what to do about it.
"""

import os
import stat
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256

from echod._util.errors import StartupError
from echod.tls.certificate import MalformedCertificateError, load_chain, names, validity

MAX_FILE_BYTES = 1 << 20
"""
The largest file that is read.  All trusted authorities of a Linux distribution take about a
quarter of it.
"""


_KEY_LABEL = b"PRIVATE KEY-----"
"""What the first line of each key in PEM ends with (RFC 7468 10, 13)."""

SELF_SIGNED = "--tls-self-signed"
"""What stands for the file of a certificate that the daemon has made itself."""


class CredentialsError(StartupError):
    """
    A certificate or key cannot be used.  The text is one line for the operator.

    @ivar kind: C{"cert"}, C{"key"} or C{"client-ca"}: which file is at fault.
    """

    program = ""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class KeyPair:
    """
    A certificate with its chain and its key.

    @ivar path: the certificate's file, or L{SELF_SIGNED}.
    @ivar chain: the certificate, then its issuers' certificates that are sent with it.
    @ivar names: the host names and IP addresses for which it is valid.
    @ivar exposed: the key's file, if more users can read it than need to; else C{None}.
    """

    path: str
    chain: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes
    names: tuple[str, ...]
    exposed: str | None

    @property
    def not_before(self) -> datetime:
        """
        The first moment at which the certificate is valid.
        """
        return validity(self.chain[0])[0]

    @property
    def not_after(self) -> datetime:
        """
        The last moment at which the certificate is valid.
        """
        return validity(self.chain[0])[1]

    @property
    def chain_validity(self) -> tuple[datetime, datetime]:
        """
        The first and the last moment at which the whole chain is valid.  A self-signed root in it
        does not count, since clients have their own.
        """
        checked = [self.chain[0], *(c for c in self.chain[1:] if c.issuer != c.subject)]
        starts, ends = zip(*map(validity, checked), strict=True)
        return max(starts), min(ends)

    @property
    def self_made(self) -> bool:
        """
        Whether the daemon has made it itself.
        """
        return self.path == SELF_SIGNED

    @property
    def fingerprint(self) -> str:
        """
        The SHA-256 fingerprint of the certificate, as C{openssl x509 -fingerprint -sha256} prints
        it.
        """
        return self.chain[0].fingerprint(SHA256()).hex(":").upper()

    @property
    def serial(self) -> str:
        """
        The certificate's serial number.
        """
        return serial_text(self.chain[0].serial_number)


def serial_text(number: int) -> str:
    """
    A serial number as C{openssl x509 -serial} prints it.
    """
    digits = f"{number:X}"
    return digits.zfill(len(digits) + len(digits) % 2)


def _open_nonblocking(path: str, flags: int) -> int:
    # To open a pipe without a writer would block a reload, and with it all clients.
    return os.open(path, flags | os.O_NONBLOCK)


def _read(path: str, kind: str) -> tuple[bytes, os.stat_result]:
    """
    @return: the content of the file, and its owner and mode.
    """
    try:
        with open(path, "rb", opener=_open_nonblocking) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CredentialsError(kind, f"{path} is not a regular file; give one that is")
            content = file.read(MAX_FILE_BYTES + 1)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise CredentialsError(
            kind, f"cannot read {path}: {error.strerror}; give a file that can be read"
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise CredentialsError(kind, f"{path} is larger than 1 MiB; give a PEM file")
    if len(content) != after.st_size or status.st_mtime_ns != after.st_mtime_ns:
        text = f"{path} changes while it is read; write another file and rename it to this name"
        raise CredentialsError(kind, text)
    return content, status


def _is_exposed(status: os.stat_result) -> bool:
    # Root gives services access to keys by a group: Debian's ssl-cert, fsGroup in Kubernetes.  The
    # owner of the file needs no group for that.
    unneeded = stat.S_IRGRP if status.st_uid == os.geteuid() else 0
    return bool(status.st_mode & (unneeded | stat.S_IROTH))


def _format_text(content: bytes) -> str | None:
    """
    The format of a file that is known not to be PEM; C{None} if it is not known.
    """
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0-\0-" in content:
        return "UTF-16 text; save it as ASCII"
    # A SEQUENCE whose length is in the long form (X.690 8.1.3).
    if content[:1] == b"0" and content[1:2] >= b"\x80":
        return "DER or PKCS 12; convert it to PEM with openssl x509, pkey or pkcs12"
    return None


def _not_pem(path: str, kind: str, content: bytes) -> str:
    if (found := _format_text(content)) is not None:
        return f"{path} holds no PEM {kind} but {found}"
    if not content:
        return f"{path} holds no PEM {kind}, it is empty; give one that does"
    return f"{path} holds no PEM {kind}; give one that does"


def _certificates(path: str, kind: str, pem: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return load_chain(pem)
    except MalformedCertificateError as error:
        if b"-----END CERTIFICATE-----" in pem:
            text = f"a certificate in {path} is malformed ({error}); give another"
        else:
            text = _not_pem(path, "certificate", pem)
        raise CredentialsError(kind, text) from None


def _no_key(path: str, option: str | None, pem: bytes) -> str:
    """
    @param option: the option that names the file of a key, if it is not given.
    """
    if option is not None and _KEY_LABEL not in pem:
        return f"{path} holds no PEM private key; add {option} FILE"
    return _not_pem(path, "private key", pem)


def read_key_pair(cert_path: str, key_path: str | None, key_option: str = "--tls-key") -> KeyPair:
    """
    Read a certificate with its chain, and its key.

    @param cert_path: a PEM file: the server's certificate first, then its chain.
    @param key_path: a PEM file with the key; C{None} when it is in C{cert_path}, which is at fault
        then for all errors.
    @param key_option: the option that names the file of a key, for the error.
    @raise CredentialsError: when a file cannot be read or has no certificate or key in it, the key
        is encrypted, or the two do not belong together.
    """
    cert_pem, status = _read(cert_path, "cert")
    key_pem, kind = cert_pem, "cert"
    missing: str | None = key_option
    if key_path is not None:
        kind, missing = "key", None
        key_pem, status = _read(key_path, kind)
    key_path = key_path or cert_path
    chain = _certificates(cert_path, "cert", cert_pem)
    try:
        certified_key = chain[0].public_key()
        certified_names = names(chain[0])
    except (ValueError, UnsupportedAlgorithm):
        text = f"the first certificate in {cert_path} is malformed or of an unknown kind"
        raise CredentialsError("cert", text + "; give another") from None
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except TypeError:
        text = f"the key in {key_path} is encrypted; store it decrypted, for its owner only"
        raise CredentialsError(kind, text) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CredentialsError(kind, _no_key(key_path, missing, key_pem)) from None
    if key.public_key() != certified_key:
        text = f"the key in {key_path} does not belong to the first certificate in {cert_path}"
        text += "; give its own"
        raise CredentialsError(kind, text)
    exposed = key_path if _is_exposed(status) else None
    return KeyPair(cert_path, chain, key, certified_names, exposed)


def read_authorities(path: str) -> tuple[x509.Certificate, ...]:
    """
    Read the certificates of the authorities that sign clients' certificates.

    @raise CredentialsError: when the file cannot be read, or has no certificate in it.
    """
    return _certificates(path, "client-ca", _read(path, "client-ca")[0])
