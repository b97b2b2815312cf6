"""
The options in force, as the status page shows them.

Invariant: secrets, and the files that have them, are left out.
"""

from collections.abc import Iterator
from getopt import getopt

from constantly import NamedConstant

from echod._util.endpoints import HIDDEN, hide_secrets
from echod._util.text import escape, format_timeout
from echod.options import Options
from echod.options.parameters import DEFAULT_UDP_RATE
from echod.stats.snapshot import OptionInfo

SECRET_FILES = frozenset(("tls-key", "tls-keylog"))
"""The options whose files have secrets."""

_UNSET = {
    "interface": "all",
    "connect-rate": "0",
    "udp-rate": str(DEFAULT_UDP_RATE[1]),
    "tls-client-auth": "off",
    "tls-min": "1.2",
    "fault-seed": "random",
    "log-level": "info",
    "log-format": "text",
}
"""What holds for an option whose value is not set; for all others, C{none}."""


def options_in_force(options: Options) -> list[OptionInfo]:
    """
    The options of the command line, in its order, then the defaults of all others.
    """
    return [*_given(options), *_defaults(options)]


def _given(options: Options) -> Iterator[OptionInfo]:
    for key, value in getopt(list(options.given), options.shortOpt, options.longOpt)[0]:
        name = options.synonyms[key.lstrip("-")]
        text = hide_secrets(value or "on")
        yield OptionInfo(f"--{name}", HIDDEN if name in SECRET_FILES else escape(text), True)


def _defaults(options: Options) -> Iterator[OptionInfo]:
    given = {each.option for each in _given(options)}
    for long in options.longOpt:
        name = long.rstrip("=")
        if long.endswith("=") and f"--{name}" not in given:
            value = options.get(name)
            yield OptionInfo(f"--{name}", _text(name, value), False)


def _text(name: str, value: object) -> str:
    if isinstance(value, float):
        return format_timeout(value)
    if isinstance(value, NamedConstant):
        return str(value.name)
    return _UNSET.get(name, "none") if value in (None, [], ()) else escape(str(value))
