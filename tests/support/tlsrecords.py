"""
TLS records that OpenSSL does not send, encrypted here with the keys of a handshake of OpenSSL;
TLS 1.2 and 1.3, with AES-128-GCM and SHA-256 only.

Invariant: each record has the next sequence number, so records are sent in the order in which
they are made.
"""

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL

SUITES = {"TLS 1.2": b"ECDHE-ECDSA-AES128-GCM-SHA256", "TLS 1.3": b"TLS_AES_128_GCM_SHA256"}

ALERT, HANDSHAKE, DATA = 21, 22, 23
"""Types of content (RFC 8446 5.1)."""

KEY_UPDATE = b"\x18\0\0\1\0"
"""A KeyUpdate that asks for none in return (RFC 8446 4.6.3)."""

UPDATE_REQUESTED = b"\x18\0\0\1\1"
"""A KeyUpdate that asks for one in return."""

_HELLO = b"\3\3" + bytes(32) + b"\0" + b"\0\2\xc0\x2b" + b"\1\0"
CLIENT_HELLO = b"\1" + struct.pack(">I", len(_HELLO))[1:] + _HELLO
"""A ClientHello of TLS 1.2, which asks for a renegotiation behind a handshake."""


def keep_secrets(context: SSL.Context) -> dict[str, bytes]:
    """
    Get the secrets of the next handshake of a client's context, by label.
    """
    secrets: dict[str, bytes] = {}

    def keep(_: object, line: bytes) -> None:
        label, random, secret = line.decode().split()
        secrets[label] = bytes.fromhex(secret)
        secrets["random"] = bytes.fromhex(random)

    context.set_keylog_callback(keep)
    context.set_cipher_list(SUITES["TLS 1.2"])
    context.set_tls13_ciphersuites(SUITES["TLS 1.3"])
    return secrets


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """
    HKDF-Expand-Label with no context (RFC 8446 7.1).
    """
    name = b"tls13 " + label
    text = struct.pack(">HB", size, len(name)) + name + b"\0\1"
    return hmac.digest(secret, text, hashlib.sha256)[:size]


def _prf(secret: bytes, seed: bytes, size: int) -> bytes:
    """
    The pseudorandom function of TLS 1.2 (RFC 5246 5).
    """
    out, link = b"", seed
    while len(out) < size:
        link = hmac.digest(secret, link, hashlib.sha256)
        out += hmac.digest(secret, link + seed, hashlib.sha256)
    return out[:size]


class Sealer:
    """
    Makes a client's records of TLS 1.3, from the end of its handshake on.
    """

    def __init__(self, secrets: dict[str, bytes]):
        self._set(secrets["CLIENT_TRAFFIC_SECRET_0"])

    def _set(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        self._key = AESGCM(_expand(secret, b"key", 16))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12), "big")

    def seal(self, kind: int, content: bytes, padding: int = 0) -> bytes:
        """
        One record.
        """
        inner = content + bytes([kind]) + bytes(padding)
        header = b"\x17\3\3" + struct.pack(">H", len(inner) + 16)
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return header + self._key.encrypt(nonce, inner, header)

    def key_update(self, message: bytes = KEY_UPDATE) -> bytes:
        """
        A KeyUpdate, behind which new keys are used.
        """
        record = self.seal(HANDSHAKE, message)
        self._set(_expand(self._secret, b"traffic upd", 32))
        return record


class OldSealer:
    """
    Makes a client's records of TLS 1.2, behind its Finished.
    """

    def __init__(self, secrets: dict[str, bytes], server_random: bytes):
        seed = b"key expansion" + server_random + secrets["random"]
        block = _prf(secrets["CLIENT_RANDOM"], seed, 40)
        self._key, self._salt, self._number = AESGCM(block[:16]), block[32:36], 1

    def seal(self, kind: int, content: bytes) -> bytes:
        """
        One record.
        """
        number = struct.pack(">Q", self._number)
        self._number += 1
        header = bytes([kind]) + b"\3\3"
        bound = number + header + struct.pack(">H", len(content))
        sealed = number + self._key.encrypt(self._salt + number, content, bound)
        return header + struct.pack(">H", len(sealed)) + sealed
