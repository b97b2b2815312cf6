"""
The certificates that are served now, and how others take their place: at SIGHUP, and when
a file's content has changed.

The rule of this room: everything is read, checked and made first; then one attribute is
set.  Whatever goes wrong before, the old ones are served on.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from twisted.application.internet import TimerService
from twisted.application.service import MultiService
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.logger import Logger
from zope.interface import implementer

from echod.credentials import BadCredentials, Credentials, read_authorities, read_credentials
from echod.sockets import printable
from echod.tls import Policy, server_context
from echod.watch import FileWatch

log = Logger()

WATCH_SECONDS = 2.0
"""How often the files are looked at; a change is taken over when two looks have seen it."""

DAY_SECONDS = 24 * 3600.0

WARNING = timedelta(days=14)
"""How long before its end a certificate is warned of."""


def _now() -> datetime:
    return datetime.now(UTC)


@implementer(IOpenSSLContextFactory)
class Certificates(MultiService):
    """
    What new connections are served with.

    @ivar served: the certificates, the first being the one for all other names.
    """

    _context: SSL.Context
    _authorities: Sequence[x509.Certificate] = ()
    served: Sequence[Credentials] = ()

    def __init__(
        self,
        clock: Any,
        policy: Policy,
        pairs: Sequence[tuple[str, str | None]],
        client_ca: str | None = None,
        now: Callable[[], datetime] = _now,
    ):
        """
        @param pairs: the files of each certificate and its key, as
            L{read_credentials<echod.credentials.read_credentials>} takes them.
        @param client_ca: the file with those who sign clients' certificates.
        @param now: tells the time of day.
        """
        super().__init__()
        self._policy = policy
        self._pairs = pairs
        self._client_ca = client_ca
        self._now = now
        paths = [path for pair in pairs for path in pair] + [client_ca]
        self._watch = FileWatch([path for path in paths if path is not None])
        for seconds, work in ((WATCH_SECONDS, self._look), (DAY_SECONDS, self._each_day)):
            timer = TimerService(seconds, work)
            timer.clock = clock
            timer.setServiceParent(self)

    def getContext(self) -> SSL.Context:
        """
        What the next connection begins with.
        """
        return self._context

    def load(self) -> None:
        """
        Read everything again, and serve it.

        @raise BadCredentials: when a part of it cannot be served; nothing has changed then.
        """
        # Before the files are read: what changes from now on is seen later.
        self._watch.note()
        served = [read_credentials(*pair) for pair in self._pairs]
        authorities = () if self._client_ca is None else read_authorities(self._client_ca)
        self._context = server_context(self._policy, served, authorities)
        self.served, self._authorities = served, authorities

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
        except BadCredentials as error:
            log.error(
                "cannot reload --tls-{kind}: {reason}; the old certificates are served on",
                event="reload-failed",
                kind=error.kind,
                reason=printable(str(error)),
            )
        else:
            self._log_served()
            self._warn_of_ends()

    def _look(self) -> None:
        if self._watch.has_changed():
            self.reload()

    def _each_day(self) -> None:
        self._warn_of_ends()
        # New contexts have new keys for tickets: who steals one has the tickets of a day,
        # and no client resumes for longer what an authority may have taken back.
        self._context = server_context(self._policy, self.served, self._authorities)

    def _log_served(self) -> None:
        for each in self.served:
            log.info(
                "certificate for {names} until {not_after}, serial {serial}, {path}",
                event="certificate",
                names=names_text(each),
                not_after=time_text(each.not_after),
                serial=each.serial,
                path=each.path,
            )
            if each.exposed is not None:
                log.warn(
                    "the key in {path} can be read by others than its owner; chmod 600 it",
                    event="key-exposed",
                    path=each.exposed,
                )

    def _warn_of_ends(self) -> None:
        now = self._now()
        for each in self.served:
            left = each.not_after - now
            if left < WARNING:
                log.warn(
                    "the certificate for {names} {ends} on {not_after}; renew {path}",
                    event="certificate-ends",
                    names=names_text(each),
                    ends="ends" if left > timedelta() else "ended",
                    not_after=time_text(each.not_after),
                    days=left.days,
                    path=each.path,
                )


def names_text(credentials: Credentials) -> str:
    """
    The names of a certificate in words.
    """
    return printable(", ".join(credentials.names)) or "no name"


def time_text(moment: datetime) -> str:
    """
    A moment as logs have it (RFC 3339, UTC).
    """
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
