"""
TLS with a server: whom to trust, what to show, and whether it is the one that was meant.

The rule of this room: files are read before anything is connected, and nobody is written
to who has not been verified, unless that was asked for.
"""

from collections.abc import Sequence
from ipaddress import ip_address

from OpenSSL import SSL
from service_identity.pyopenssl import verify_hostname, verify_ip_address

from echod._util.sockets import printable
from echod.check.results import Failed, Outcome
from echod.check.secure_stream import SecureStream, reason_text, shown_names
from echod.check.stream import ByteStream
from echod.tls.context import use_credentials
from echod.tls.credentials import BadCredentials, read_credentials

VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}

_NOT_TRUSTED = {
    9: "the certificate is not valid yet",
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the chain ends in a self-signed certificate that is not trusted",
    20: "the certificate's issuer is not trusted",
    21: "the certificate's issuer is not trusted",
    26: "the certificate is not one for a server",
}
"""The errors of X509_STORE_CTX_get_error(3) that people meet."""


class BadFile(ValueError):
    """
    A certificate, key or list of authorities cannot be used.  The text is one line.
    """


class ClientTLS:
    """
    How to speak TLS with a server: whom to trust, what to show, what to ask for.
    """

    def __init__(
        self,
        name: str | None,
        *,
        authorities: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
        alpn: Sequence[str] = (),
        version: str | None = None,
        verify: bool = True,
    ):
        """
        @param name: the host name or IP address that the certificate is to be for, as
            L{server_name<echod._util.values.server_name>} has it.
        @param authorities: a PEM file of those to trust; C{None} for the system's.
        @param certificate: a PEM file to show to the server, its chain included.
        @param key: a PEM file; C{None} when it is in C{certificate}.
        @param version: C{"1.2"} or C{"1.3"} and no other.
        @raise BadFile: when a file cannot be used.
        """
        self._name = name
        self._verify = verify
        self._untrusted: str | None = None
        self._context = context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(VERSIONS[version or "1.2"])
        if version:
            context.set_max_proto_version(VERSIONS[version])
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        if alpn:
            context.set_alpn_protos([word.encode("ascii") for word in alpn])
        if verify:
            context.set_verify(SSL.VERIFY_PEER, self._judged)
            if authorities is None:
                context.set_default_verify_paths()
            else:
                _load_authorities(context, authorities)
        if certificate is not None:
            try:
                use_credentials(context, read_credentials(certificate, key))
            except BadCredentials as error:
                raise BadFile(f"--{error.kind}: {printable(str(error))}") from None

    def _judged(self, _: object, certificate: object, number: int, depth: int, ok: int) -> bool:
        if not ok:
            self._untrusted = _NOT_TRUSTED.get(number, f"the certificate fails check {number}")
        return bool(ok)

    async def secure(self, stream: ByteStream) -> "SecureStream":
        """
        Shake hands, and see whether the server is the one that was meant.

        @raise Failed: when it is not, or does not speak TLS with us.
        """
        connection = SSL.Connection(self._context, None)
        connection.set_connect_state()
        if self._name is not None and _address(self._name) is None:
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        secured = SecureStream(stream, connection, self._verify)
        self._untrusted = None
        try:
            await secured.handshake()
        except SSL.Error as error:
            reason = self._untrusted or reason_text(error)
            # The alert that says why is on its way to the server.
            raise Failed(Outcome.TLS_REFUSED, reason) from None
        if self._verify:
            _check_name(connection, self._name or "")
        return secured


def _load_authorities(context: SSL.Context, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except SSL.Error:
        text = f"--ca '{printable(path)}': holds no PEM authorities; give a file that does"
        try:
            with open(path, "rb"):
                raise BadFile(text) from None
        except OSError as error:
            text = f"--ca '{printable(path)}': {error.strerror}; give a file that can be read"
            raise BadFile(text) from None


def _address(name: str) -> object:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _check_name(connection: SSL.Connection, name: str) -> None:
    try:
        if _address(name) is None:
            verify_hostname(connection, name)
        else:
            # A zone is this machine's name for a link, and in no certificate.
            verify_ip_address(connection, name.partition("%")[0])
    except Exception:
        # Another name, or whatever the parser meets in a certificate.
        names = ", ".join(shown_names(connection)) or "nobody"
        text = f"the certificate is for {names}, not for {printable(name)}"
        raise Failed(Outcome.WRONG_NAME, text) from None
