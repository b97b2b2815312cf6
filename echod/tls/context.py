"""
The TLS policy: versions, cipher suites, groups, protocols, client certificates, and which
certificate is sent for which name.

Invariant: every context is made by one function from one policy, whichever certificate it has.
For one connection, OpenSSL uses some settings of the context with which it began, and some of the
context that was chosen by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLContextFactory

from echod.tls._openssl import MODE_NO_AUTO_CHAIN, reason_text, set_groups, set_protocols
from echod.tls.credentials import CredentialsError, KeyPair

ServerContext = IOpenSSLContextFactory
"""What a transport's C{startTLS} takes (C{ITLSTransport})."""

CIPHERS = b"ECDHE+AES128+AESGCM:ECDHE+AESGCM:ECDHE+CHACHA20"
"""
Only suites with forward secrecy and authenticated encryption: those of Mozilla's server side TLS
guidelines, I{intermediate}, in their order, without finite-field Diffie-Hellman.
"""

CIPHERS_1_3 = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
"""
The suites of TLS 1.3, in the order of the same guidelines.  A handshake with SHA-256 takes 3.5 %
less CPU time than with SHA-384, OpenSSL's first choice; the session tickets cost about as much.
"""

GROUPS = ("X25519MLKEM768", "X25519", "P-256", "P-384")
"""
The groups for the key exchange, in order of preference; the first also resists quantum computers.
"""

VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
"""The TLS versions, by the names that options use."""

OPTIONS = SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE

CLIENT_AUTH = {
    "off": SSL.VERIFY_NONE,
    "request": SSL.VERIFY_PEER,
    "require": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}
"""
What each value of C{--tls-client-auth} asks of clients.  C{request} and C{require} both refuse a
certificate that cannot be verified, so an authority has signed every subject in the log.
"""

SESSION_ID_CONTEXT = b"echod"
"""
Without a session ID context, sessions with client certificates cannot be resumed.  One constant
is enough: each set of contexts has its own ticket keys, which keep their sessions apart.
"""


@dataclass(frozen=True)
class TLSPolicy:
    """
    The settings of every connection, whichever certificate it uses.

    @ivar minimum: the oldest TLS version, a key of L{VERSIONS}.
    @ivar alpn: the ALPN protocols, in order of preference; none turns ALPN off.
    @ivar client_auth: a key of L{CLIENT_AUTH}.
    @ivar log_keys: called with each line for the key log; C{None} for no key log.
    """

    minimum: str = "1.2"
    alpn: tuple[bytes, ...] = ()
    client_auth: str = "off"
    log_keys: Callable[[bytes], None] | None = None


def _context(
    policy: TLSPolicy, credentials: KeyPair, authorities: Sequence[x509.Certificate]
) -> SSL.Context:
    """
    @raise CredentialsError: when OpenSSL refuses the certificate or the key.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_options(OPTIONS)
    context.set_min_proto_version(VERSIONS[policy.minimum])
    context.set_cipher_list(CIPHERS)
    context.set_tls13_ciphersuites(CIPHERS_1_3)
    set_groups(context, GROUPS)
    # The chain is what the file contains.  Not building one saves 2 % of the time of a handshake
    # whose certificate has no chain.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | MODE_NO_AUTO_CHAIN)
    # Tickets contain all that is needed to resume a session, so no cache is needed.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(SESSION_ID_CONTEXT)
    context.set_verify(CLIENT_AUTH[policy.client_auth])
    store: Any = context.get_cert_store()
    for authority in authorities:
        # Only for this method, pyOpenSSL 26 needs its own class of certificate.
        store.add_cert(crypto.X509.from_cryptography(authority))
        context.add_client_ca(authority)
    if policy.alpn:
        set_protocols(context, policy.alpn)
    if (log_keys := policy.log_keys) is not None:
        context.set_keylog_callback(lambda _, line: log_keys(line))
    use_credentials(context, credentials)
    return context


def use_credentials(context: SSL.Context, credentials: KeyPair) -> None:
    """
    Give a context a certificate with its chain and its key.

    @raise CredentialsError: when OpenSSL refuses the certificate or the key.
    """
    leaf, *issuers = credentials.chain
    try:
        context.use_certificate(leaf)
        context.use_privatekey(credentials.key)  # type: ignore[arg-type]  # OpenSSL says which it takes
        for issuer in issuers:
            context.add_extra_chain_cert(issuer)
    except (SSL.Error, crypto.Error, TypeError) as error:
        text = f"OpenSSL refuses {credentials.path}: {reason_text(error)}; give another"
        raise CredentialsError("cert", text) from None


def _choose_certificate(
    contexts: dict[bytes, SSL.Context],
) -> Callable[[SSL.Connection], None]:
    """
    Make the callback that chooses the certificate for the name that a client sends (RFC 6066 3):
    the one for that name, else one with a matching wildcard (RFC 9525 6.3), else the default.
    """

    def choose(connection: SSL.Connection) -> None:
        # Some clients send a trailing dot, which is not part of the name (RFC 6066 3).
        name = (connection.get_servername() or b"").lower().removesuffix(b".")
        context = contexts.get(name) or contexts.get(b"*." + name.partition(b".")[2])
        if context is not None:
            connection.set_context(context)

    return choose


def server_context(
    policy: TLSPolicy,
    credentials: Sequence[KeyPair],
    authorities: Sequence[x509.Certificate] = (),
) -> SSL.Context:
    """
    Make the context with which connections begin; it switches to another one by name.

    @param credentials: the key pairs; the first is the default.
    @param authorities: the authorities that sign clients' certificates.
    @raise CredentialsError: when OpenSSL refuses one of the certificates.
    """
    contexts: dict[bytes, SSL.Context] = {}
    made = [_context(policy, each, authorities) for each in credentials]
    for context, each in zip(made, credentials, strict=True):
        for name in each.names:
            contexts.setdefault(name.lower().encode(), context)
        # A handshake that has switched to this context may still call a callback of the first
        # one, which therefore has to live as long, also after a reload.
        context.set_app_data(made[0])
    if len(made) > 1:
        made[0].set_tlsext_servername_callback(_choose_certificate(contexts))
    return made[0]
