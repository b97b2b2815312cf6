"""
The certificates that are served, and how new ones take their place.

Invariant: a whole new set is built and checked before it replaces the old one; live connections
keep what they started with.
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
from echod.tls.credentials import CredentialsError, KeyPair, read_authorities, read_key_pair

log = Logger(namespace="echod.tls")

MAX_BYTES = 1 << 20
"""How much of a file is compared."""

Stamp = tuple[int, ...] | None
"""What tells, without reading it, that a file may have changed; C{None} if it is not there."""


def _stamp(path: str) -> Stamp:
    # Through symbolic links, so that it is seen when any on the way leads elsewhere.
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
            return sha256(file.read(MAX_BYTES)).digest()
    except OSError:
        return None


class FileWatcher:
    """
    Some files that belong together, and what they were like when they were last looked at.
    """

    def __init__(self, paths: Sequence[str]):
        self._paths = paths
        self._seen: list[Stamp] = []
        self._known: list[Stamp] = []
        self._digests: list[bytes | None] = []

    def note(self) -> None:
        """
        Take what there is for what is known.
        """
        self._seen = self._known = [_stamp(path) for path in self._paths]
        self._digests = [_digest(path) for path in self._paths]

    def has_changed(self) -> bool:
        """
        Look again.

        @return: whether there is a content that is new and that the last look saw too.
            Whoever replaces several files, one after the other, is left time for it.
        """
        seen = [_stamp(path) for path in self._paths]
        still, self._seen = seen == self._seen, seen
        if not still or seen == self._known:
            return False
        self._known = seen
        before, self._digests = self._digests, [_digest(path) for path in self._paths]
        return before != self._digests


WATCH_SECONDS = 2.0
"""How often the files are looked at; a change is taken over when two looks have seen it."""

DAY_SECONDS = 24 * 3600.0

HOUR_SECONDS = 3600.0

REPEAT_INTERVAL = timedelta(hours=23.5)
"""How often the same warning is repeated: each day, by a timer that runs each hour."""

Warning = tuple[tuple[object, ...], Callable[[], None]]
"""What it is about, so that it is not repeated too often; and what logs it."""


def _now() -> datetime:
    return datetime.now(UTC)


@implementer(IOpenSSLContextFactory)
class CertificateStore(MultiService):
    """
    What new connections are served with.

    @ivar served: the certificates, the first being the one for all other names.
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
    ):
        """
        @param pairs: the files of each certificate and its key, as
            L{read_key_pair<echod.tls.credentials.read_key_pair>} takes them.
        @param client_ca: the file with those who sign clients' certificates.
        @param now: tells the time of day.
        """
        super().__init__()
        self._policy = policy
        self._pairs = pairs
        self._client_ca = client_ca
        self._now = now
        paths = [path for pair in pairs for path in pair] + [client_ca]
        self._watch = FileWatcher([path for path in paths if path is not None])
        # When to try once more what was refused for its dates.
        self._retry_at: datetime | None = None
        self._warned: dict[tuple[object, ...], datetime] = {}
        for seconds, doing, work in (
            (WATCH_SECONDS, "looking for new certificates", self._look),
            (DAY_SECONDS, "making new keys for tickets", self._each_day),
            (HOUR_SECONDS, "looking when certificates end", self._each_hour),
        ):
            periodic(clock, seconds, doing, work).setServiceParent(self)

    def getContext(self) -> SSL.Context:
        """
        What the next connection begins with.
        """
        return self._context

    def load(self) -> None:
        """
        Read everything again, and serve it.

        @raise BadCredentials: when a part of it cannot be served, or is not valid now while
            what it would replace is; nothing has changed then.
        """
        # Before the files are read: what changes from now on is seen later.
        self._watch.note()
        self._retry_at = None
        served = [read_key_pair(*pair) for pair in self._pairs]
        self._compare(served)
        authorities = () if self._client_ca is None else read_authorities(self._client_ca)
        self._context = server_context(self._policy, served, authorities)
        self.served, self._authorities = served, authorities

    def _compare(self, new: Sequence[KeyPair]) -> None:
        """
        @raise BadCredentials: when one that is valid would be replaced by one that is not.
        """
        now = self._now()
        for old, each in zip(self.served, new, strict=False):
            begin, end = each.chain_validity
            old_begin, old_end = old.chain_validity
            if begin <= now < end or not old_begin <= now < old_end:
                continue
            self._retry_at = min(begin, old_end) if begin > now else old_end
            what, fault = "the certificate", _fault(each.chain[0], now)
            if not fault:
                what, fault = (
                    "an issuer's certificate",
                    next(filter(None, (_fault(issuer, now) for issuer in each.chain[1:]))),
                )
            text = f"{what} in {each.path} {fault}, and the one that is served is valid"
            raise CredentialsError("cert", text)

    def startService(self) -> None:
        """
        Say what is served, and keep watch.
        """
        self._log_served()
        super().startService()

    def reload(self) -> None:
        """
        Serve what the files hold now, or log why not.
        """
        try:
            self.load()
        except CredentialsError as error:
            log.error(
                "cannot reload --tls-{kind}: {reason}; the old certificates are served on",
                event="reload-failed",
                kind=error.kind,
                reason=escape(str(error)),
            )
        else:
            self._log_served()
            self._warn()

    def _look(self) -> None:
        late = self._retry_at is not None and self._now() >= self._retry_at
        if self._watch.has_changed() or late:
            self.reload()

    def _each_day(self) -> None:
        # New contexts have new keys for tickets: who steals one has the tickets of a day,
        # and no client resumes for longer what an authority may have taken back.
        self._context = server_context(self._policy, self.served, self._authorities)

    def _log_served(self) -> None:
        for each in self.served:
            log.info(
                "certificate for {names} until {not_after}, serial {serial}, {path}",
                event="certificate-loaded",
                names=names_text(each),
                not_after=format_duration(each.not_after),
                serial=each.serial,
                path=each.path,
            )
            if each.exposed is not None:
                log.warn(
                    "the key in {path} can be read by others than its owner; chmod 600 it",
                    event="key-exposed",
                    path=each.exposed,
                )

    def _each_hour(self) -> None:
        self._warn(REPEAT_INTERVAL)

    def _warn(self, interval: timedelta = timedelta()) -> None:
        """
        Warn of what is not valid now, or soon not any more.

        @param interval: what has been warned of more recently is not repeated.
        """
        now, before = self._now(), self._warned
        self._warned = {}
        for about, warn in self._warnings(now):
            last = before.get(about)
            if last is None or now - last >= interval:
                warn()
                last = now
            self._warned[about] = last

    def _warnings(self, now: datetime) -> Iterator[Warning]:
        for each in self.served:
            yield from _warnings(each, now)
        path, authorities = self._client_ca, self._authorities
        invalid = [authority for authority in authorities if _fault(authority, now)]
        if invalid:
            warn = partial(_warn_of_authorities, invalid, len(authorities), path)
            yield ("authorities", len(invalid)), warn


def _fault(certificate: x509.Certificate, now: datetime) -> str:
    """
    What is wrong with a certificate's dates, in words; nothing when it is valid.
    """
    begin, end = validity(certificate)
    if now < begin:
        return f"is not valid before {format_duration(begin)}"
    return f"ended on {format_duration(end)}" if now >= end else ""


def _warnings(each: KeyPair, now: datetime) -> Iterator[Warning]:
    """
    What there is to say of a certificate's dates, and of those sent with it.
    """
    left, lifetime = each.not_after - now, each.not_after - each.not_before
    if now < each.not_before:
        yield ("begin", each.path, each.serial), partial(_warn_of_begin, each)
    elif left.total_seconds() < warning_seconds(lifetime.total_seconds()):
        ended = left <= timedelta()
        yield ("end", each.path, each.serial, ended), partial(_warn_of_end, each, left)
    for issuer in each.chain[1:]:
        if fault := _fault(issuer, now):
            about = ("issuer", each.path, issuer.serial_number, fault)
            yield about, partial(_warn_of_issuer, each, issuer, fault)


def _warn_of_begin(each: KeyPair) -> None:
    log.warn(
        "the certificate for {names} is not valid before {not_before}; check the clock, or "
        "replace {path}",
        event="certificate-not-yet-valid",
        names=names_text(each),
        not_before=format_duration(each.not_before),
        path=each.path,
    )


def _warn_of_end(each: KeyPair, left: timedelta) -> None:
    log.warn(
        "the certificate for {names} {ends} on {not_after}; renew {path}",
        event="certificate-ends",
        names=names_text(each),
        ends="ends" if left > timedelta() else "ended",
        not_after=format_duration(each.not_after),
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


def names_text(credentials: KeyPair) -> str:
    """
    The names of a certificate in words.
    """
    return escape(", ".join(credentials.names)) or "no name"


def format_duration(moment: datetime) -> str:
    """
    A moment as logs have it (RFC 3339, UTC).
    """
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
