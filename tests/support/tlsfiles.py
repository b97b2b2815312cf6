"""
Daemons with certificates in files, and what they log about them.

Invariant: an authority of the test signs each certificate, and files are replaced by rename(2), as
certbot and Kubernetes do.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto

from tests.support.certificates import MadeCertificate, make_certificate
from tests.support.clients import TLSClient
from tests.support.daemons import REACTOR, Daemon

DAYS = 80
"""
Days left of a new certificate: enough for no warning, and few enough for a browser.
"""


def authority(name: str = "authority") -> MadeCertificate:
    """
    A certificate authority.
    """
    return make_certificate([name], authority=True, days=DAYS)


def certificate(issuer: MadeCertificate, *names: str, days: float = DAYS) -> MadeCertificate:
    """
    A certificate for a server or a client.
    """
    return make_certificate(names or ["localhost"], issuer, days=days)


def put(path: Path, content: bytes) -> None:
    """
    Replace a file; the new one is readable by its owner only.
    """
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.chmod(0o600)
    os.replace(new, path)


class TLSDaemon(Daemon):
    """
    A daemon with a TLS listener only, and a log in JSON.
    """

    def __init__(
        self,
        certificates: Sequence[MadeCertificate],
        *options: str,
        before: Sequence[str] = (),
        files: dict[str, bytes] | None = None,
        reactor: str = REACTOR,
    ):
        """
        @param certificates: the first is in C{0.pem} with its key in C{0.key}, and so on.
        @param files: further files in its directory.
        """
        pairs: list[str] = []
        for number in range(len(certificates)):
            pairs += ("--tls-cert", f"{{}}/{number}.pem", "--tls-key", f"{{}}/{number}.key")
        listen = ("--tls-port", "0", "--interface", "127.0.0.1", "--log-format", "json")
        super().__init__(*listen, *pairs, *options, before=before, reactor=reactor)
        for number, made in enumerate(certificates):
            self.install(made, number)
        for name, content in (files or {}).items():
            put(self.directory / name, content)

    def install(self, made: MadeCertificate, number: int = 0) -> None:
        """
        Replace a certificate and its key.
        """
        put(self.directory / f"{number}.pem", made.chain)
        put(self.directory / f"{number}.key", made.key_pem)

    def client(
        self,
        context: SSL.Context,
        name: bytes | None = None,
        session: SSL.Session | None = None,
    ) -> TLSClient:
        """
        A client after its handshake.
        """
        client = TLSClient(self.connect("--tls-port"), context)
        try:
            if name is not None:
                client.tls.set_tlsext_host_name(name)
            if session is not None:
                client.tls.set_session(session)
            return client.handshake()
        except BaseException:
            client.close()
            raise

    def events(self, kind: str) -> list[dict[str, Any]]:
        """
        The logged events of this name.
        """
        lines = self.log.splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if event.get("event") == kind]


def trusting(authority: MadeCertificate, version: int | None = None) -> SSL.Context:
    """
    A client's context that trusts one authority.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if version is not None:
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
    store = context.get_cert_store()
    assert store is not None
    store.add_cert(crypto.X509.from_cryptography(authority.certificate))
    context.set_verify(SSL.VERIFY_PEER)
    return context


def serial(client: TLSClient) -> int:
    """
    The serial number of the server's certificate.
    """
    shown = client.tls.get_peer_certificate(as_cryptography=True)
    assert shown is not None
    return shown.serial_number
