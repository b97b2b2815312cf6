"""
The settings of the listeners, each with the faults and the greeting that belong to it.

Invariant: as that of L{settings<echod.tap.settings>}.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from twisted.logger import Logger

from echod._util.endpoints import hide_secrets
from echod._util.errors import StartupError
from echod._util.text import escape
from echod.options.listeners import ListenerOption
from echod.options.parameters import OptionValues

if TYPE_CHECKING:
    from echod.faults.spec import Fault

log = Logger(namespace="echod")


@dataclass(frozen=True)
class ListenerSettings:
    """
    Settings of one listener.

    @ivar option: the option with its value, for logs, errors and the status page; without secrets.
    @ivar name: the listener's name in logs and metrics, without secrets.
    @ivar port: the port of C{--port} or C{--tls-port}; C{None} for an endpoint string.
    @ivar endpoint: the endpoint string of C{--listen} or C{--tls-listen}.
    @ivar place: its place among all, from 0.
    @ivar faults: those of C{--fault}, in the order of the command line.
    @ivar greets: whether there is a C{--greet}.
    """

    option: str
    name: str
    tls: bool
    port: int | None = None
    endpoint: str = ""
    place: int = 0
    faults: "Sequence[Fault]" = ()
    greets: bool = False

    def warn(self, seed: int) -> None:
        """
        Warn of the faults, if there are any.
        """
        if self.faults:
            log.warn(
                "{option}: misbehaves on purpose: {faults}; seed {seed}",
                event="faults-enabled",
                option=self.option,
                faults=" ".join(each.text for each in self.faults),
                seed=seed,
            )


def listener_settings(options: OptionValues) -> list[ListenerSettings]:
    """
    Make the settings of all listeners, in the order in which they are shown.

    @raise StartupError: if a C{--fault} is wrong.
    """
    interface = options["interface"]
    at = f" --interface {interface}" if interface else ""
    ports = (
        ("port", options["port"], "tcp", False),
        ("tls-port", options["tls-port"], "tls", True),
    )
    endpoints = (
        ("listen", options["listen"], False),
        ("tls-listen", options["tls-listen"], True),
    )
    listeners = {
        ListenerOption(option, 0): ListenerSettings(f"--{option} {port}{at}", name, tls, port=port)
        for option, port, name, tls in ports
        if port is not None
    } | {
        ListenerOption(option, number): ListenerSettings(
            f"--{option} {escape(hide_secrets(text))}", hide_secrets(text), tls, endpoint=text
        )
        for option, texts, tls in endpoints
        for number, text in enumerate(texts)
    }
    faults = _faults(options)
    return [
        replace(each, place=place, faults=faults.get(option, ()), greets=option in options["greet"])
        for place, (option, each) in enumerate(listeners.items())
    ]


def _faults(options: OptionValues) -> "dict[ListenerOption, list[Fault]]":
    if not options["fault"]:
        return {}
    # Imported here, because only --fault needs it.
    from echod.faults.spec import parse_fault

    faults: dict[ListenerOption, list[Fault]] = {}
    for listener, text in options["fault"]:
        try:
            faults.setdefault(listener, []).append(parse_fault(text))
        except ValueError as error:
            raise StartupError(f"--fault '{escape(text)}': {error}") from None
    return faults
