"""
TLS: which versions and suites echod speaks, and how its certificate and key are read.

The rule of this room: everything is read and checked here, before the daemon forks or
gives up its privileges; what leaves this room is ready to serve.
"""

from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.ssl import (
    AcceptableCiphers,
    CertificateOptions,
    TLSVersion,
)

ServerContext = IOpenSSLContextFactory
"""What L{server_context} makes and L{start_tls} takes."""

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""
Forward secrecy and authenticated encryption only: the suites of Mozilla's server side
TLS guidelines, I{intermediate}, less finite-field Diffie-Hellman.  TLS 1.3 brings its
own, all of that kind.
"""


class BadCredentials(ValueError):
    """
    A certificate or key cannot be used.  The text is one line for the operator.

    @ivar kind: C{"cert"} or C{"key"}: which of the two files is at fault.
    """

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


def _read(path: str, kind: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadCredentials(
            kind, f"cannot read {path}: {error.strerror}; give a file that can be read"
        ) from None


def server_context(cert_path: str, key_path: str | None) -> ServerContext:
    """
    Read a certificate with its chain, and its key, and make the context for serving.

    @param cert_path: a PEM file: the server's certificate first, then its chain.
    @param key_path: a PEM file with the key; C{None} when it is in C{cert_path}.
    @raise BadCredentials: when a file cannot be read, holds no certificate or no key,
        the key is encrypted, the two do not belong together, or OpenSSL refuses them.
    """
    cert_pem = _read(cert_path, "cert")
    key_pem = cert_pem if key_path is None else _read(key_path, "key")
    key_path = key_path or cert_path
    try:
        chain = x509.load_pem_x509_certificates(cert_pem)
        certified = chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm):
        text = f"{cert_path} holds no PEM certificate; give one that does"
        raise BadCredentials("cert", text) from None
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except TypeError:
        text = f"the key in {key_path} is encrypted; store it decrypted, for its owner only"
        raise BadCredentials("key", text) from None
    except (ValueError, UnsupportedAlgorithm):
        text = f"{key_path} holds no PEM private key; give one that does"
        raise BadCredentials("key", text) from None
    if key.public_key() != certified:
        text = f"the key in {key_path} does not belong to the first certificate in {cert_path}"
        text += "; give its own"
        raise BadCredentials("key", text)
    options: ServerContext = CertificateOptions(
        privateKey=crypto.PKey.from_cryptography_key(key),  # type: ignore[arg-type]
        certificate=crypto.X509.from_cryptography(chain[0]),
        extraCertChain=[crypto.X509.from_cryptography(c) for c in chain[1:]],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        acceptableCiphers=AcceptableCiphers.fromOpenSSLCipherString(CIPHERS),
    )
    try:
        options.getContext()
    except SSL.Error as error:
        reasons = ", ".join(reason for _, _, reason in error.args[0])
        text = f"OpenSSL refuses {cert_path}: {reasons}; give another"
        raise BadCredentials("cert", text) from None
    return options


def start_tls(transport: Any, context: ServerContext) -> None:
    """
    Put TLS between a new connection and its protocol.

    @param transport: one that can: Twisted's C{ITLSTransport}.
    """
    transport.startTLS(context)
