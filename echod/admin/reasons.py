"""
The page of the reasons: what each means, as C{deploy/README.md} says it.

Invariant: the texts are those of C{deploy/README.md}, which is not installed.
"""

from collections.abc import Iterator, Mapping

from echod.admin.html import Markup, document, table, tag

MEANINGS = {
    "client": "the client closed the connection",
    "reset": "the client or the network reset the connection",
    "idle-timeout": "no bytes in either direction for too long",
    "max-lifetime": "the connection reached its maximum age",
    "write-timeout": "the client did not read its echo",
    "drain": "closed gracefully while the daemon stopped",
    "aborted": "aborted while the daemon stopped",
    "fault": "a fault on purpose (--fault)",
    "error": "a TLS error or an internal error; see the log",
    "denied": "the access rules deny the address",
    "max-connections": "too many connections in all",
    "max-per-client": "too many connections of this client",
    "connect-rate": "the client connected too often",
    "proxy-header": "the PROXY header was bad, missing or late",
    "handshake": "the TLS handshake failed",
}
"""What each reason means, in a few words."""

ENDED = {
    "client": (
        "the client closed it, or closed its sending side and got the whole echo; in TLS, also "
        "before the first byte"
    ),
    "reset": (
        "the client or the network broke it, or the client closed before it had read its echo, but "
        "not after its `close_notify` in TLS; in TLS, also a FIN without `close_notify` after the "
        "handshake"
    ),
    "idle-timeout": (
        "it had no data in either direction for `--idle-timeout`; or, where a PROXY "
        "header is required, it sent nothing at all for `--proxy-header-timeout`"
    ),
    "max-lifetime": "it was older than `--max-lifetime`",
    "write-timeout": "the client read nothing of its echo for `--write-timeout`",
    "drain": "echod was stopping, and the connection was quiet",
    "aborted": (
        "echod was stopping and did not wait longer: `--drain-timeout` was over, or a "
        "second signal came"
    ),
    "fault": "a `--fault` of the listener ended it on purpose",
    "error": (
        "TLS failed after the handshake, for example because bytes were changed on the "
        "way; or echod failed, and its traceback is in the log; the record has a "
        "`detail`"
    ),
}
"""Why a connection ended: it ended because ...  Names of options are between backquotes."""

REFUSED = {
    "denied": "`--allow` and `--deny` do not admit the client",
    "max-connections": "there were `--max-connections` connections",
    "max-per-client": "the client had `--max-per-client` connections",
    "connect-rate": "the client connected more often than `--connect-rate`",
    "proxy-header": (
        "the PROXY header was missing, malformed, late, or from an address outside `--proxy-trust`"
    ),
    "handshake": (
        "the TLS handshake failed, took longer than `--handshake-timeout`, or the client "
        "left in the middle of it; also a handshake that is too long"
    ),
}
"""Why a connection was refused, likewise."""


def reasons_page() -> str:
    """
    The page of the reasons; each can be linked to by its word.
    """
    return document("Reasons - echod", _content())


def _content() -> Iterator[Markup]:
    yield tag("header", tag("h1", "Reasons"), tag("nav", tag("a", "status page", href="./")))
    yield tag(
        "p",
        "Each connection ends, or is refused, for one reason. The metrics, the status page and a "
        "log in JSON use the same word; an access record in text has a phrase. A limit has the "
        "name of its option.",
    )
    yield tag(
        "div",
        _table("The connection ended because", ENDED),
        _table("The connection was refused because", REFUSED),
        class_="tables",
    )


def _table(caption: str, meanings: Mapping[str, str]) -> Markup:
    rows = [
        (
            tag("span", reason, id=reason, class_="reason"),
            tag("td", *_with_code(text), class_="meaning"),
        )
        for reason, text in meanings.items()
    ]
    return table(caption, ("Reason", "Meaning"), rows)


def _with_code(text: str) -> Iterator[object]:
    for index, part in enumerate(text.split("`")):
        yield tag("code", part) if index % 2 else part
