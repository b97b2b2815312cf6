"""
Endpoint strings: their arguments, and the coercions of options that have one
(C{twisted.internet.endpoints}).

Invariant: as that of L{values<echod._util.values>}.  What Twisted's parsers let pass, but their
calls do not, is refused here.
"""

import re
from contextlib import suppress
from ipaddress import IPv6Address, ip_address

from echod._util.values import MAX_DURATION, backlog, interface, port_number, unix_path

SERVER_ARGUMENTS = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "ssl": ("port", "privateKey", "certKey", "sslmethod", "interface", "backlog"),
    "unix": ("address", "mode", "backlog", "lockfile"),
}
"""The arguments of Twisted's server endpoints, in the order in which they stand without names."""

_FIELD = re.compile(r"(?:^|:)((?:\\.|[^:\\])*)", re.DOTALL)
_NAMED = re.compile(r"((?:\\.|[^=\\])*)=(.*)", re.DOTALL)
"""One field of an endpoint string, and one that has a name."""

_BARE_ADDRESS = re.compile(r"(\w+)=\[?([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]?(?=:\w+=|$)")
"""An argument that may be an IPv6 address without backslashes, up to the next one with a name."""

HIDDEN = "[hidden]"
"""What stands for a secret where an endpoint string is shown."""

_SECRET_NAME = re.compile(r"\w*(?:key|pass|secret|token)\w*", re.IGNORECASE)
"""The name of an argument that is a secret or names a file that has one."""

_SECRET_ARGUMENT = re.compile(
    rf"({_SECRET_NAME.pattern}=)(?:\\.|[^:\\])*", re.IGNORECASE | re.DOTALL
)


def hide_secrets(description: str) -> str:
    """
    An endpoint string as logs, metrics and the status page show it: without the arguments that are
    secrets or name files that have one.
    """
    kind, _, rest = description.partition(":")
    if kind == "haproxy":
        return f"{kind}:{hide_secrets(rest)}"
    if kind == "ssl":
        # Its key may stand without a name.
        unnamed = iter(SERVER_ARGUMENTS[kind])
        fields = [
            HIDDEN
            if not _NAMED.match(field) and _SECRET_NAME.fullmatch(next(unnamed, ""))
            else field
            for field in _FIELD.findall(rest)
        ]
        description = ":".join((kind, *fields))
    return _SECRET_ARGUMENT.sub(rf"\1{HIDDEN}", description)


def endpoint_settings(description: str, *names: str) -> dict[str, str]:
    """
    The arguments of an endpoint string (C{twisted.internet.endpoints}), escapes removed.

    @param names: the names of the positional arguments, in order.
    """
    _, *fields = _FIELD.findall(description)
    settings: dict[str, str] = {}
    unnamed = iter(names)
    for field in fields:
        match = _NAMED.fullmatch(field)
        name, value = match.groups() if match else (next(unnamed, ""), field)
        settings[name] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
    return settings


def check_colons(text: str) -> None:
    """
    Check that no colon of an IPv6 address ends an argument: Twisted's parsers would read several.

    @raise ValueError: when one does; it says how to write the address.
    """
    for name, value in _BARE_ADDRESS.findall(text):
        if _is_ipv6(value):
            escaped = value.replace(":", r"\:")
            raise ValueError(
                "an IPv6 address needs a backslash before each colon; "
                f"give '{name}={escaped}', with the quotes in a shell"
            )


def _is_ipv6(text: str) -> bool:
    with suppress(ValueError):
        return isinstance(ip_address(text), IPv6Address)
    return False


def endpoint(text: str) -> str:
    """
    @return: a server endpoint string, checked as far as possible without a reactor.
    @raise ValueError: when it is not one.
    """
    kind, _, rest = text.partition(":")
    if not kind or not rest:
        port = text if _is_port(text) else "9000"
        raise ValueError(f"not an endpoint; give one such as tcp:{port} or unix:/run/echod.sock")
    check_colons(text)
    settings = endpoint_settings(text, *SERVER_ARGUMENTS.get(kind, ()))
    if kind in ("tcp", "tcp6", "ssl"):
        port_number(settings.get("port", ""))
    if kind == "unix":
        unix_path(settings.get("address", ""))
        _mode(settings.get("mode", "666"))
    if kind in SERVER_ARGUMENTS:
        backlog(settings.get("backlog", "1"))
    return text


def _mode(text: str) -> None:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError("not permissions of a file; give them in octal, such as mode=660")


def datagram_endpoint(text: str) -> str:
    """
    @return: the description of a UDP socket: C{udp:PORT}, C{udp:PORT:interface=ADDRESS}, or
        C{systemd:name=NAME} for what a socket unit hands over.
    @raise ValueError: when it is not one.
    """
    kind, _, rest = text.partition(":")
    if kind not in ("udp", "systemd") or not rest:
        raise ValueError("not a UDP endpoint; give one such as udp:9000 or systemd:name=echo")
    check_colons(text)
    if kind == "udp":
        settings = endpoint_settings(text, "port", "interface")
        port_number(settings.pop("port", ""))
        if "interface" in settings:
            interface(settings.pop("interface"))
        if settings:
            raise ValueError(
                "not a UDP endpoint; give a port and interface=ADDRESS, with a backslash before "
                "each colon of an IPv6 address"
            )
    return text


def admin_endpoint(text: str) -> str:
    """
    @return: as L{endpoint}; its example is not reachable from other machines.
    @raise ValueError: when it is not one.
    """
    if not all(text.partition(":")):
        port = text if _is_port(text) else "9001"
        raise ValueError(f"not an endpoint; give one such as tcp:{port}:interface=127.0.0.1")
    return endpoint(text)


def _is_port(text: str) -> bool:
    with suppress(ValueError):
        port_number(text)
        return True
    return False


def timeout(text: str) -> float:
    """
    @return: the timeout of a client endpoint in seconds.  Twisted takes whole ones only, but also
        those that are negative.
    @raise ValueError: when it is not one.
    """
    if not re.fullmatch("[0-9]{1,6}", text) or not 1 <= int(text) <= MAX_DURATION:
        raise ValueError(f"not a timeout; give timeout=SECONDS, a number from 1 to {MAX_DURATION}")
    return float(text)
