"""
Which listener an option belongs to: the one before it on the command line.

Invariant: an option without a listener raises C{UsageError} with one line, which names the option
and the way out.
"""

import getopt
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from twisted.python.usage import UsageError

LISTENERS = ("port", "tls-port", "listen", "tls-listen")
"""The options that a C{--fault} or C{--greet} may follow."""

OTHERS = ("udp-port", "udp-listen")
"""The listeners that they may not follow."""


class ListenerOption(NamedTuple):
    """
    A listener, as the command line names it.

    @ivar option: the name of its option.
    @ivar number: which one of the option's, from 0; always 0 for a port.
    """

    option: str
    number: int


def listener_options(
    given: Sequence[str],
    short: str,
    long: Sequence[str],
    full_names: Mapping[str, str],
    names: Sequence[str],
) -> Iterator[tuple[str, str, ListenerOption]]:
    """
    The options that belong to the listener before them.

    @param given: the command line, which has been parsed without an error.
    @param short: the short options, as C{getopt} takes them.
    @param long: the long options, as C{getopt} takes them.
    @param full_names: the long name of each option, by each of its names.
    @param names: the names of these options.
    @return: the name of each, its value, and its listener: the default port if the command line has
        no listener.
    @raise UsageError: if it stands before the first listener.
    """
    found = [
        (full_names[name.lstrip("-")], value)
        for name, value in getopt.getopt(list(given), short, list(long))[0]
    ]
    numbers = dict.fromkeys(LISTENERS, -1)
    listener = None
    if not any(name in (*LISTENERS, *OTHERS) for name, _ in found):
        listener = ListenerOption("port", 0)
    for name, value in found:
        if name in LISTENERS:
            numbers[name] = 0 if name.endswith("port") else numbers[name] + 1
            listener = ListenerOption(name, numbers[name])
        elif name in OTHERS:
            listener = None
        elif name in names:
            if listener is None:
                raise UsageError(
                    f"--{name}: belongs to the listener option before it; give it after "
                    "--port, --tls-port, --listen or --tls-listen"
                )
            yield name, value, listener
