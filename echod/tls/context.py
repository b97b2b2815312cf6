"""
TLS: which versions, suites, groups and protocols echod speaks, whom it lets in, and which
certificate answers to which name.

Invariant: every context is made by one function and from one policy, whatever
certificate it has.  OpenSSL takes some of what it does from the context that a connection
began with, and some from the one that its name chose.
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
"""What C{startTLS} takes (C{ITLSTransport})."""

CIPHERS = b"ECDHE+AES128+AESGCM:ECDHE+AESGCM:ECDHE+CHACHA20"
"""
Forward secrecy and authenticated encryption only: the suites of Mozilla's server side
TLS guidelines, I{intermediate}, in their order, less finite-field Diffie-Hellman.
"""

CIPHERS_1_3 = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
"""
Those of TLS 1.3, in the order of the same guidelines.  With SHA-256, a handshake takes
3.5 % less than with SHA-384, which is first for OpenSSL: about what its tickets cost.
"""

GROUPS = ("X25519MLKEM768", "X25519", "P-256", "P-384")
"""
The groups for the key exchange, the first being safe from quantum computers as well.
"""

OPTIONS = SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE

VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}

CLIENT_AUTH = {
    "off": SSL.VERIFY_NONE,
    "request": SSL.VERIFY_PEER,
    "require": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}
"""
What each word asks of clients.  A certificate that cannot be verified is refused by both
of the latter, so that a subject in the log is always one that an authority vouches for.
"""

SESSION_ID_CONTEXT = b"echod"
"""
Sessions with client certificates cannot be resumed without one.  It need not tell
sessions apart: the keys of the tickets do that, each set of contexts having its own.
"""


@dataclass(frozen=True)
class TLSPolicy:
    """
    What holds for every connection, whatever certificate it is shown.

    @ivar minimum: the oldest version spoken, a key of L{VERSIONS}.
    @ivar alpn: the protocols on offer, the dearest first; none leaves ALPN out.
    @ivar client_auth: a key of L{CLIENT_AUTH}.
    @ivar log_keys: takes the secrets of each connection, a line at a time.
    """

    minimum: str = "1.2"
    alpn: tuple[bytes, ...] = ()
    client_auth: str = "off"
    log_keys: Callable[[bytes], None] | None = None


def _context(
    policy: TLSPolicy, credentials: KeyPair, authorities: Sequence[x509.Certificate]
) -> SSL.Context:
    """
    @raise BadCredentials: when OpenSSL refuses the certificate or the key.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_options(OPTIONS)
    context.set_min_proto_version(VERSIONS[policy.minimum])
    context.set_cipher_list(CIPHERS)
    context.set_tls13_ciphersuites(CIPHERS_1_3)
    set_groups(context, GROUPS)
    # What is sent is what the file holds; and not looking for more saves a
    # handshake with a certificate that has no chain 2 % of its time.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | MODE_NO_AUTO_CHAIN)
    # Tickets hold all that resuming takes: nothing is kept here.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(SESSION_ID_CONTEXT)
    context.set_verify(CLIENT_AUTH[policy.client_auth])
    store: Any = context.get_cert_store()
    for authority in authorities:
        # Here alone pyOpenSSL 26 takes its own kind and no other.
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
    Let a context show a certificate with its chain, and prove that it has its key.

    @raise BadCredentials: when OpenSSL refuses the certificate or the key.
    """
    leaf, *above = credentials.chain
    try:
        context.use_certificate(leaf)
        context.use_privatekey(credentials.key)  # type: ignore[arg-type]  # OpenSSL says which it takes
        for issuer in above:
            context.add_extra_chain_cert(issuer)
    except (SSL.Error, crypto.Error, TypeError) as error:
        text = f"OpenSSL refuses {credentials.path}: {reason_text(error)}; give another"
        raise CredentialsError("cert", text) from None


def _choose_certificate(
    contexts: dict[bytes, SSL.Context],
) -> Callable[[SSL.Connection], None]:
    """
    The certificate for the name that the client sends (RFC 6066 3): its own, else one for
    all names beside it (RFC 9525 6.3), else the first of all.
    """

    def choose(connection: SSL.Connection) -> None:
        # Some send the dot at the end of a name, which is not part of it (RFC 6066 3).
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
    Make the context that connections begin with, which knows those for other names.

    @param credentials: the first is for all who ask for none of the names.
    @param authorities: who signs clients' certificates.
    @raise BadCredentials: when OpenSSL refuses one of the certificates.
    """
    contexts: dict[bytes, SSL.Context] = {}
    made = [_context(policy, each, authorities) for each in credentials]
    for context, each in zip(made, credentials, strict=True):
        for name in each.names:
            contexts.setdefault(name.lower().encode(), context)
        # A handshake that went on to this one may still call back into the first, which
        # therefore has to live as long, also when it is not served any more.
        context.set_app_data(made[0])
    if len(made) > 1:
        made[0].set_tlsext_servername_callback(_choose_certificate(contexts))
    return made[0]
