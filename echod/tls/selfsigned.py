"""
A certificate that the daemon makes for itself, for C{--tls-self-signed}.

Invariant: the key is in memory only: no file, command line or environment variable contains it.
"""

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from echod._util.text import IP
from echod._util.values import host_name
from echod.tls.certificate import load_chain, names
from echod.tls.credentials import SELF_SIGNED, KeyPair

LIFETIME = timedelta(days=397)
"""
How long the certificate is valid.  Some clients refuse server certificates with a longer lifetime
(CA/Browser Forum, Baseline Requirements, 6.3.2).
"""

CLOCK_SKEW = timedelta(hours=1)
"""How late the clock of a client may be."""

MAX_ADDRESSES = 32
"""How many addresses of the machine the certificate has; a node of a cluster has thousands."""

IPV4_TABLE = "/proc/self/net/fib_trie"
"""The IPv4 routes (proc(5)); the machine's own addresses among them are C{host LOCAL}."""

IPV6_TABLE = "/proc/self/net/if_inet6"
"""The IPv6 addresses of all interfaces (proc(5)), with the scope of each in hexadecimal."""

_LINK_SCOPE = 0x20


def _read(path: str) -> str:
    with suppress(OSError), open(path, encoding="ascii", errors="replace") as file:
        return file.read()
    return ""


def local_addresses(ipv4: str = IPV4_TABLE, ipv6: str = IPV6_TABLE) -> Iterator[IP]:
    """
    The addresses of this machine, without those that are valid on one link only.  No name server is
    asked, since that may take long.
    """
    for address in dict.fromkeys(re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL\n", _read(ipv4))):
        yield IPv4Address(address)
    for line in _read(ipv6).splitlines():
        digits, _, _, scope, *_ = line.split()
        if int(scope, 16) != _LINK_SCOPE:
            yield IPv6Address(bytes.fromhex(digits))


def local_names(interface: str | None, host: str, addresses: Sequence[IP]) -> list[str | IP]:
    """
    What a client on this machine or another may call the daemon.

    @param interface: the address of C{--interface}; C{None} for all addresses.
    @param host: the host name.
    """
    found: list[str | IP] = ["localhost"]
    with suppress(ValueError):
        found.append(host_name(host).lower())
    found += [ip_address("127.0.0.1"), ip_address("::1")]
    if interface is not None:
        found.append(ip_address(interface.partition("%")[0]))
    found += sorted(addresses, key=lambda each: (each.version, each))[:MAX_ADDRESSES]
    return list(dict.fromkeys(found))


def make_key_pair(names: Sequence[str | IP], now: datetime) -> KeyPair:
    """
    Make a key, and a certificate that it signs itself.

    @param names: the host names and addresses of the certificate.
    @param now: the time of day.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "echod, self-signed")])
    alternatives = [
        x509.DNSName(each) if isinstance(each, str) else x509.IPAddress(each) for each in names
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now - CLOCK_SKEW + LIFETIME)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        # A client that trusts this certificate trusts no other one by that.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _key_pair(certificate.public_bytes(serialization.Encoding.PEM), key)


def _key_pair(pem: bytes, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    chain = load_chain(pem)
    return KeyPair(SELF_SIGNED, chain, key, names(chain[0]), None)


def make_for_host(interface: str | None, now: datetime) -> KeyPair:
    """
    Make a key and a certificate for localhost, the host name, and the addresses of this machine.

    @param interface: the address of C{--interface}; C{None} for all addresses.
    """
    host = socket.gethostname()
    return make_key_pair(local_names(interface, host, list(local_addresses())), now)


def to_pem(pair: KeyPair) -> bytes:
    """
    The key and the certificate, for a worker.
    """
    return pair.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + pair.chain[0].public_bytes(serialization.Encoding.PEM)


def from_pem(pem: bytes) -> KeyPair:
    """
    The key pair that L{to_pem} has written.
    """
    key = serialization.load_pem_private_key(pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return _key_pair(pem, key)
