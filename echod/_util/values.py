"""
Coercions of command-line values, one for each kind of option.

Invariant: a bad value raises C{ValueError}, and its text says what the value is not and what to
give instead.
"""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from math import ceil
from typing import Any, TypeVar

from twisted.logger import LogLevel
from twisted.python.usage import UsageError

from echod._util.text import escape

MAX_DURATION = 7 * 24 * 3600
"""The longest time of an option: a week, in seconds."""

MAX_CONNECTIONS = 10_000_000
MAX_PROCESSES = 1024
MAX_UNIX_PATH_BYTES = 107 if sys.platform == "linux" else 103
"""The size of C{sun_path} (unix(7)), less its null terminator."""

_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


T = TypeVar("T")

Network = IPv4Network | IPv6Network


def parameter(
    long: str, short: str | None, default: object, help: str, coerce: Callable[[str], object]
) -> list[object]:
    """
    Make an entry of C{optParameters} (C{twisted.python.usage.Options}).

    @param coerce: makes the value of the text; raises C{ValueError} with what to give instead.
    """
    return [long, short, default, help, lambda text: named(long, text, coerce)]


def named(option: str, text: str, coerce: Callable[[str], T]) -> T:
    """
    Make the value of an option.

    @raise UsageError: if the text is wrong; it names the option.
    """
    try:
        return coerce(text)
    except ValueError as error:
        raise UsageError(f"--{option} '{escape(text)}': {error}") from None


def port_number(text: str) -> int:
    """
    @return: a TCP port, 0 to 65535.
    @raise ValueError: when it is not one.
    """
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError("not a port; give a number from 0 (any free port) to 65535")
    return int(text)


def backlog(text: str) -> int:
    """
    @return: the length of an accept queue, 1 to 65535 (listen(2)).
    @raise ValueError: when it is not one.
    """
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError("not a queue length; give a number from 1 to 65535")
    return int(text)


def interface(text: str) -> str:
    """
    @return: an IP address of this machine, of either version.
    @raise ValueError: when it is not an address.
    """
    try:
        ip_address(text)
    except ValueError:
        raise ValueError("not an IP address; give one such as 127.0.0.1 or ::1") from None
    return text


def seconds(text: str) -> float:
    """
    @return: a time in seconds, from C{500ms}, C{30}, C{30s}, C{5m}, C{1h} or C{1d}.
    @raise ValueError: when it is not a time, or longer than a week.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d|)", text)
    value = float(match[1]) * _UNITS[match[2]] if match else -1.0
    if not 0 <= value <= MAX_DURATION:
        raise ValueError("not a time; give seconds, or such as 500ms, 30s, 5m, up to a week")
    return value


def log_level(text: str) -> Any:
    """
    @return: one of Twisted's C{LogLevel} constants.
    @raise ValueError: when it is none of the four.
    """
    if text not in ("debug", "info", "warn", "error"):
        raise ValueError("not a level; give debug, info, warn or error")
    return LogLevel.levelWithName(text)


def one_of(*words: str) -> Callable[[str], str]:
    """
    Make a coercion that takes one of a few words.
    """

    def choose(text: str) -> str:
        if text not in words:
            raise ValueError(f"not one of the choices; give {' or '.join(words)}")
        return text

    return choose


def path(text: str) -> str:
    """
    @return: the absolute path of a file.  twistd changes its working directory after the start,
        and a reload opens the file again.
    @raise ValueError: when it is empty or holds a null byte, or when it is relative to a current
        directory that has been removed.
    """
    if not text or "\0" in text:
        raise ValueError("not a path; give the name of a file")
    try:
        return os.path.abspath(text)
    except OSError:
        raise ValueError("there is no current directory; give an absolute path") from None


def unix_path(text: str) -> str:
    """
    @return: the path of a UNIX socket.
    @raise ValueError: when it is not one, or too long for the kernel.
    """
    if not text or "\0" in text:
        raise ValueError("not a path; give one such as unix:/run/echod.sock")
    size = len(os.fsencode(text))
    if size > MAX_UNIX_PATH_BYTES:
        raise ValueError(
            f"not a path that fits: {size} bytes, and a UNIX socket's has at most "
            f"{MAX_UNIX_PATH_BYTES}; give a shorter one"
        )
    return text


def host_name(text: str) -> str:
    """
    @return: a host name as DNS and TLS use it: in ASCII (IDNA 2008, RFC 5891; Python's own
        codec is IDNA 2003), and without a trailing dot (RFC 6066 3).
    @raise ValueError: when it is not one.
    """
    name = text
    if not text.isascii():
        # Imported when needed: most names are ASCII, and idna's tables are large.
        import idna

        try:
            # uts46 maps what people type, such as upper case (UTS 46).
            name = idna.encode(text, uts46=True).decode("ascii")
        except idna.IDNAError:
            name = ""
    name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(re.fullmatch("[A-Za-z0-9_-]{1,63}", each) for each in labels):
        raise ValueError("not a host name; give one such as echo.example")
    return name


def server_name(text: str) -> str:
    """
    @return: a name that a certificate can have: a host name or an IP address.
    @raise ValueError: when it is neither.
    """
    try:
        ip_address(text)
    except ValueError:
        return host_name(text)
    return text


def protocols(text: str) -> tuple[bytes, ...]:
    """
    @return: ALPN protocol names (RFC 7301), from C{h2,http/1.1}.
    @raise ValueError: when the list or a name is empty, or a name is too long or not printable
        ASCII.
    """
    names = text.split(",")
    if not all(re.fullmatch("[!-~]{1,255}", name) for name in names):
        raise ValueError("not protocols; give names such as h2,http/1.1")
    return tuple(name.encode() for name in names)


def count(text: str) -> int:
    """
    @return: a number of connections.
    @raise ValueError: when it is not one.
    """
    if not re.fullmatch("[0-9]{1,8}", text) or int(text) > MAX_CONNECTIONS:
        raise ValueError(f"not a number in range; give one from 0 to {MAX_CONNECTIONS}")
    return int(text)


def positive(text: str) -> int:
    """
    @return: a number of connections, at least 1.
    @raise ValueError: when it is not one.
    """
    if not re.fullmatch("[0-9]{1,8}", text) or not 1 <= int(text) <= MAX_CONNECTIONS:
        raise ValueError(f"not a number in range; give one from 1 to {MAX_CONNECTIONS}")
    return int(text)


def processes(text: str) -> int:
    """
    @return: a number of processes; 0 for as many as there are CPUs.
    @raise ValueError: when it is not one.
    """
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) > MAX_PROCESSES:
        raise ValueError(f"not a number in range; give one from 0 to {MAX_PROCESSES}")
    return int(text)


def seed(text: str) -> int:
    """
    @return: a number that random draws are made from.
    @raise ValueError: when it is not one.
    """
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError("not a seed; give a number such as 42")
    return int(text)


def _client_rate(text: str, what: str) -> tuple[float, int] | None:
    """
    @param what: what the rate is of, for the error.
    @return: the rate a second and the burst, from C{10}, C{0.5} or C{10:50}; the default burst is
        the rate, rounded up.  C{None} from C{0}: no limit.
    @raise ValueError: when it is not a rate.
    """
    if text == "0":
        return None
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(?::(0|[1-9][0-9]{0,5}))?", text)
    if match is None or not float(match[1]) or match[2] == "0":
        raise ValueError(f"not a rate; give {what} a second, such as 10, 0.5, or 10:50")
    rate = float(match[1])
    return rate, int(match[2] or ceil(rate))


def connect_rate(text: str) -> tuple[float, int] | None:
    """
    @return: connections a second and the burst; C{None} for no limit.
    @raise ValueError: when it is not a rate.
    """
    return _client_rate(text, "connections")


def datagram_rate(text: str) -> tuple[float, int]:
    """
    @return: datagrams a second and the burst; 0 and 0 for no limit.
    @raise ValueError: when it is not a rate.
    """
    return _client_rate(text, "datagrams") or (0.0, 0)


def network(text: str) -> Network:
    """
    @return: a network, from C{192.0.2.0/24}, C{2001:db8::/32}, or an address.  An IPv4-mapped
        network becomes the IPv4 network in it (RFC 4291 2.5.5.2).
    @raise ValueError: when it is not one.
    """
    if "%" in text:
        raise ValueError("not a network; give one such as fe80::/10, without a zone")
    try:
        net = ip_network(text)
    except ValueError as error:
        example = "192.0.2.0/24 or 2001:db8::/32"
        if "host bits" in str(error):
            example = str(ip_network(text, strict=False))
        raise ValueError(f"not a network; give one such as {example}") from None
    mapped = getattr(net.network_address, "ipv4_mapped", None)
    if mapped is not None and net.prefixlen >= 96:
        return IPv4Network((mapped, net.prefixlen - 96))
    return net


def host(text: str) -> str:
    """
    @return: the host of a URL, without a port: a name in lower case without a trailing dot, or
        an IP address in its canonical form.
    @raise ValueError: when it is neither.
    """
    if "%" not in text:
        with suppress(ValueError):
            ip = ip_address(text)
            return str(getattr(ip, "ipv4_mapped", None) or ip)
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not re.fullmatch(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", name):
        raise ValueError("not a host; give a name or an address, without a port")
    return name
