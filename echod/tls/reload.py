"""
The certificates that are served, how they are reloaded, and warnings before they expire.

Invariant: a whole new set is built and checked before it replaces the old one; open connections
keep what they began with.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from twisted.application.service import MultiService
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.logger import Logger
from zope.interface import implementer

from echod._util.text import escape
from echod._util.timers import periodic
from echod.tls.certificate import subject_text, validity, warning_seconds
from echod.tls.context import TLSPolicy, server_context
from echod.tls.credentials import (
    MAX_FILE_BYTES,
    CredentialsError,
    KeyPair,
    read_authorities,
    read_key_pair,
)

log = Logger(namespace="echod.tls")

WATCH_INTERVAL = 2.0
"""Seconds between two checks of the files; a change is loaded once two checks have seen it."""

TICKET_KEY_INTERVAL = 24 * 3600.0
"""Seconds for which the keys of session tickets are used."""

EXPIRY_CHECK_INTERVAL = 3600.0
"""Seconds between two checks of the certificates' dates."""

REPEAT_INTERVAL = timedelta(hours=23.5)
"""After what time a warning is repeated: once a day, by a timer that runs once an hour."""

ExpiryWarning = tuple[tuple[object, ...], Callable[[], None]]
"""A key by which repetitions are recognized, and a function that logs the warning."""


def _now() -> datetime:
    return datetime.now(UTC)


@implementer(IOpenSSLContextFactory)
class CertificateStore(MultiService):
    """
    The certificates for new connections, and the context that is made of them.

    @ivar served: the key pairs; the first is the default.
    @ivar self_made: the key pair that the daemon has made itself; C{None} without one.
    """

    _context: SSL.Context
    _authorities: Sequence[x509.Certificate] = ()
    served: Sequence[KeyPair] = ()

    def __init__(
        self,
        clock: Any,
        policy: TLSPolicy,
        pairs: Sequence[tuple[str, str | None]],
        client_ca: str | None = None,
        now: Callable[[], datetime] = _now,
        self_made: KeyPair | None = None,
    ):
        """
        @param clock: the reactor.
        @param pairs: the paths of each certificate and its key, as
            L{read_key_pair<echod.tls.credentials.read_key_pair>} takes them.
        @param client_ca: the file with the authorities that sign clients' certificates.
        @param now: returns the time of day.
        @param self_made: a key pair that the daemon has made itself, and keeps until its end.
        """
        super().__init__()
        self._policy = policy
        self.self_made = self_made
        self._pairs = pairs
        self._client_ca = client_ca
        self._now = now
        paths = [path for pair in pairs for path in pair] + [client_ca]
        self._watcher = FileWatcher([path for path in paths if path is not None])
        # When to try again a certificate that was refused for its dates.
        self._retry_at: datetime | None = None
        self._warned: dict[tuple[object, ...], datetime] = {}
        for interval, doing, work in (
            (WATCH_INTERVAL, "looking for new certificates", self._check_files),
            (TICKET_KEY_INTERVAL, "making new keys for tickets", self._renew_ticket_keys),
            (EXPIRY_CHECK_INTERVAL, "looking when certificates end", self._check_expiry),
        ):
            periodic(clock, interval, doing, work).setServiceParent(self)

    def getContext(self) -> SSL.Context:
        """
        The context with which new connections begin.
        """
        return self._context

    def load(self) -> None:
        """
        Read all files, and serve what they contain.

        @raise CredentialsError: when a part of it cannot be served, or is not valid now although
            what it would replace is; then nothing changes.
        """
        # Before the files are read, so that a change during the reading is seen later.
        self._watcher.note()
        self._retry_at = None
        served = [read_key_pair(*pair) for pair in self._pairs]
        if self.self_made is not None:
            served.append(self.self_made)
        self._refuse_worse(served)
        authorities = () if self._client_ca is None else read_authorities(self._client_ca)
        self._context = server_context(self._policy, served, authorities)
        self.served, self._authorities = served, authorities

    def _refuse_worse(self, new: Sequence[KeyPair]) -> None:
        """
        @raise CredentialsError: when a certificate that is valid now would be replaced by one that
            is not.
        """
        now = self._now()
        for old, each in zip(self.served, new, strict=False):
            start, end = each.chain_validity
            old_start, old_end = old.chain_validity
            if start <= now < end or not old_start <= now < old_end:
                continue
            self._retry_at = min(start, old_end) if start > now else old_end
            subject, fault = "the certificate", _fault(each.chain[0], now)
            if not fault:
                subject, fault = (
                    "an issuer's certificate",
                    next(filter(None, (_fault(issuer, now) for issuer in each.chain[1:]))),
                )
            text = f"{subject} in {each.path} {fault}, and the one that is served is valid"
            raise CredentialsError("cert", text)

    def startService(self) -> None:
        """
        Log what is served, and watch the files.
        """
        self._log_served()
        super().startService()

    def reload(self) -> None:
        """
        Serve what the files contain now, or log why that is not possible.
        """
        try:
            self.load()
        except CredentialsError as error:
            log.error(
                "cannot reload --tls-{kind}: {reason}; the old certificates stay in use",
                event="reload-failed",
                kind=error.kind,
                reason=escape(str(error)),
            )
        else:
            self._log_served()
            self._warn()

    def _check_files(self) -> None:
        retry = self._retry_at is not None and self._now() >= self._retry_at
        if self._watcher.has_changed() or retry:
            self.reload()

    def _renew_ticket_keys(self) -> None:
        # New contexts have new ticket keys.  A stolen key decrypts the tickets of one day, and a
        # client whose certificate was revoked can resume its session for one day at most.
        self._context = server_context(self._policy, self.served, self._authorities)

    def _log_served(self) -> None:
        for each in self.served:
            # A client can trust this one by its fingerprint alone.
            shown = "SHA-256 fingerprint {fingerprint}" if each.self_made else "serial {serial}"
            log.info(
                f"certificate for {{names}} until {{not_after}}, {shown}, {{path}}",
                event="certificate-loaded",
                names=names_text(each),
                not_after=format_time(each.not_after),
                serial=each.serial,
                fingerprint=each.fingerprint,
                path=each.path,
            )
            if each.exposed is not None:
                log.warn(
                    "the key in {path} can be read by users other than its owner; chmod 600 it",
                    event="key-exposed",
                    path=each.exposed,
                )

    def _check_expiry(self) -> None:
        self._warn(REPEAT_INTERVAL)

    def _warn(self, interval: timedelta = timedelta()) -> None:
        """
        Warn of certificates that are not valid now, or will soon expire.

        @param interval: a warning that was logged within this time is not repeated.
        """
        now, before = self._now(), self._warned
        self._warned = {}
        for key, warn in self._all_warnings(now):
            last = before.get(key)
            if last is None or now - last >= interval:
                warn()
                last = now
            self._warned[key] = last

    def _all_warnings(self, now: datetime) -> Iterator[ExpiryWarning]:
        for each in self.served:
            yield from _warnings(each, now)
        path, authorities = self._client_ca, self._authorities
        invalid = [authority for authority in authorities if _fault(authority, now)]
        if invalid:
            warn = partial(_warn_of_authorities, invalid, len(authorities), path)
            yield ("authorities", len(invalid)), warn


def _fault(certificate: x509.Certificate, now: datetime) -> str:
    """
    What is wrong with a certificate's dates, as text; empty if it is valid.
    """
    start, end = validity(certificate)
    if now < start:
        return f"is not valid before {format_time(start)}"
    return f"ended on {format_time(end)}" if now >= end else ""


def _warnings(each: KeyPair, now: datetime) -> Iterator[ExpiryWarning]:
    """
    The warnings about the dates of a certificate and of its issuers' certificates.
    """
    left, lifetime = each.not_after - now, each.not_after - each.not_before
    if now < each.not_before:
        yield ("begin", each.path, each.serial), partial(_warn_of_start, each)
    elif left.total_seconds() < warning_seconds(lifetime.total_seconds()):
        ended = left <= timedelta()
        yield ("end", each.path, each.serial, ended), partial(_warn_of_end, each, left)
    for issuer in each.chain[1:]:
        if fault := _fault(issuer, now):
            key = ("issuer", each.path, issuer.serial_number, fault)
            yield key, partial(_warn_of_issuer, each, issuer, fault)


def _warn_of_start(each: KeyPair) -> None:
    log.warn(
        "the certificate for {names} is not valid before {not_before}; check the clock, or "
        "replace {path}",
        event="certificate-not-yet-valid",
        names=names_text(each),
        not_before=format_time(each.not_before),
        path=each.path,
    )


def _warn_of_end(each: KeyPair, left: timedelta) -> None:
    log.warn(
        "the certificate for {names} {ends} on {not_after}; "
        + ("restart echod, which makes a new one" if each.self_made else "renew {path}"),
        event="certificate-ends",
        names=names_text(each),
        ends="ends" if left > timedelta() else "ended",
        not_after=format_time(each.not_after),
        days=left.days,
        path=each.path,
    )


def _warn_of_issuer(each: KeyPair, issuer: x509.Certificate, fault: str) -> None:
    log.warn(
        "an issuer's certificate in {path}, {subject}, {reason}; replace it by the one that came "
        "with the certificate",
        event="chain-not-valid",
        path=each.path,
        subject=subject_text(issuer),
        reason=fault,
    )


def _warn_of_authorities(invalid: Sequence[x509.Certificate], total: int, path: str | None) -> None:
    log.warn(
        "{count} of {total} certificates in {path} are not valid now, such as {subject}; clients "
        "whose certificates they signed are refused",
        event="authorities-not-valid",
        count=len(invalid),
        total=total,
        path=path,
        subject=subject_text(invalid[0]),
    )


def names_text(each: KeyPair) -> str:
    """
    The names of a certificate as text.
    """
    return escape(", ".join(each.names)) or "no name"


def format_time(moment: datetime) -> str:
    """
    A moment as text (RFC 3339, UTC).
    """
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


Stamp = tuple[int, ...] | None
"""
What changes whenever a file changes: device, inode, size and times (stat(2)); C{None} if there is
no file.
"""


def _stamp(path: str) -> Stamp:
    # Follow symbolic links, so that a change of any of them is seen.
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(path: str) -> bytes | None:
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            return sha256(file.read(MAX_FILE_BYTES)).digest()
    except OSError:
        return None


class FileWatcher:
    """
    Finds out whether one of several files that belong together has changed.
    """

    def __init__(self, paths: Sequence[str]):
        self._paths = paths
        self._seen: list[Stamp] = []
        self._known: list[Stamp] = []
        self._digests: list[bytes | None] = []

    def note(self) -> None:
        """
        Record the files as they are now.
        """
        self._seen = self._known = [_stamp(path) for path in self._paths]
        self._digests = [_digest(path) for path in self._paths]

    def has_changed(self) -> bool:
        """
        Compare the files with what was recorded.

        @return: whether a content is new, and the files have not changed since the last call.  So
            a program has time to replace several files, one after the other.
        """
        seen = [_stamp(path) for path in self._paths]
        unchanged, self._seen = seen == self._seen, seen
        if not unchanged or seen == self._known:
            return False
        self._known = seen
        before, self._digests = self._digests, [_digest(path) for path in self._paths]
        return before != self._digests
