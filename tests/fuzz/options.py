"""
The values of all options of C{echod} and C{echod-check}, and the names of servers.

Invariant: a value is accepted, or refused by one line of printable text; nothing else is raised.
"""

import io
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.python.usage import UsageError

from echod._util.errors import BIND_STATUS, CONFIG_STATUS
from echod._util.values import server_name
from echod.check.options import CheckOptions
from echod.check.results import CheckError, CheckResult
from echod.check.target import parse_target
from echod.options import Options
from tests.fuzz.target import play
from tests.support import prefork

EXAMPLES, COMMANDS, TARGETS = 300, 10, 200

PATIENCE_SECONDS = 120.0

_GOOD = (
    *("0", "1", "9000", "65535", "127.0.0.1", "::1", "fe80::1%lo", "localhost", "10:50", "0.5"),
    *(
        "30s",
        "500ms",
        "5m",
        "1h",
        "off",
        "on",
        "require",
        "optional",
        "request",
        "1.2",
        "h2,http/1.1",
    ),
    *(
        "192.0.2.0/24",
        "2001:db8::/32",
        "unix",
        "debug",
        "json",
        "tcp:0:interface=127.0.0.1",
        "64KiB",
    ),
    *("unix:s:mode=660", r"tcp:0:interface=\:\:1", "systemd:domain=INET:index=0", "tcp6:0", "v2"),
    *("ssl:0:interface=127.0.0.1:privateKey=x", "haproxy:tcp:0:interface=127.0.0.1", "file.pem"),
    *("www.example.com", "a..b", "xn--mnchen-3ya.de", "m\xfcnchen.de", ".", "a.", "-a", "a" * 64),
    *("[::1]:9", "localhost:9", "unix:/x", "tcp:host=localhost:port=9", "127.1:9", "0x7f.1:9"),
)
_SPECIAL = "\0\t\n\r\x1b\x7f\x85\xa0\u200b\u202e\u2028\ud800\udcff\U0001f600\u0663\xb2\uff11"

_text = st.text(
    st.one_of(
        st.sampled_from("0123456789.:,=/%\\[]-+_eE aAxX"),
        st.sampled_from(_SPECIAL),
        st.characters(),
    ),
    max_size=12,
)


@st.composite
def _value(draw: Any) -> str:
    text: str = draw(st.one_of(st.sampled_from(_GOOD), st.sampled_from(_GOOD), _text))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(_text) + text[at + draw(st.integers(0, 2)) :]
    text *= draw(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 1, 2, 500]))
    # What a command line can have: bytes of any encoding (PEP 383), without NUL.
    return os.fsdecode(
        text.encode("utf-8", "surrogateescape" if _escapes(text) else "replace")
    ).replace("\0", "")


def _escapes(text: str) -> bool:
    return not any("\ud800" <= each <= "\udc7f" or "\udd00" <= each <= "\udfff" for each in text)


def _arguments(options: Any) -> st.SearchStrategy[list[str]]:
    """
    Command lines of some options with their values, the names as the options have them.
    """
    names = [name for name in options.longOpt if name not in ("help", "version", "check")]
    one = st.one_of(
        st.sampled_from([name for name in names if name.endswith("=")]).flatmap(
            lambda name: _value().map(lambda value: f"--{name}{value}")
        ),
        st.sampled_from([f"--{name}" for name in names if not name.endswith("=")] or ["--x"]),
        _value().map(lambda value: f"--{value}"),
    )
    return st.lists(one, min_size=1, max_size=4)


def _is_line(text: object) -> None:
    assert isinstance(text, str), f"not a line: {text!r}"
    assert text.isprintable() and text.strip(), f"not a line: {text!r}"
    assert ";" in text, f"it does not say what to give: {text!r}"


def accepts(arguments: Sequence[str]) -> bool:
    """
    Whether echod accepts these arguments.
    """
    before, sys.__stderr__ = sys.__stderr__, io.StringIO()  # type: ignore[misc]
    try:
        Options().parseOptions(arguments)
    except SystemExit as error:
        if error.code != 0:
            assert error.code == CONFIG_STATUS, repr(error)
            line, newline, rest = sys.__stderr__.getvalue().partition("\n")
            assert newline and not rest, f"not one line: {line!r}, {rest!r}"
            _is_line(line)
        return False
    finally:
        sys.__stderr__ = before  # type: ignore[misc]
    return True


def _check_daemon(arguments: list[str]) -> None:
    accepts(arguments)


def _check_client(arguments: list[str]) -> None:
    try:
        CheckOptions().parseOptions(arguments)
    except UsageError as error:
        _is_line(str(error))


def _check_name(text: str) -> None:
    try:
        server_name(text)
    except ValueError as error:
        assert not isinstance(error, UnicodeError), repr(error)
        assert str(error)


def _check_target(text: str) -> None:
    """
    Parse a target, and look it up, as far as that needs no name server.
    """

    def look_up(_: Any, host: str, port: int) -> Deferred[Any]:
        try:
            # Raises what it raises for a name, before it asks a server.
            socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
        except Exception:
            return fail(Failure())
        return succeed([])

    _check_name(text)
    try:
        _, connect = parse_target(text, look_up)
    except ValueError as error:
        assert not isinstance(error, UnicodeError), repr(error)
        assert str(error)
        return
    if text.startswith("unix:") or not getattr(connect, "__qualname__", "").startswith("_tcp"):
        return

    async def run() -> None:
        try:
            await connect(Clock(), CheckResult())
        except CheckError as error:
            assert str(error)

    failures: list[Failure] = []
    Deferred.fromCoroutine(run()).addErrback(failures.append)
    # No address was found, so nothing else happens.
    if failures:
        failures[0].raiseException()


class OptionValues:
    """
    The options, in this process and, those that are accepted, in real ones with C{--check}.
    """

    name = "options"

    def __enter__(self) -> "OptionValues":
        self._folder = tempfile.TemporaryDirectory(prefix="echod-")
        return self

    def __exit__(self, *error: Any) -> None:
        self._folder.cleanup()

    def round(self, number: int) -> int:
        daemon = _arguments(Options())
        played = play(daemon, _check_daemon, number, EXAMPLES)
        client = st.tuples(_arguments(CheckOptions()), _value()).map(lambda two: [*two[0], two[1]])
        played += play(client, _check_client, number, EXAMPLES)
        played += play(_value(), _check_target, number, TARGETS)
        return played + play(daemon, self._check_command, number, COMMANDS)

    def _check_command(self, arguments: list[str]) -> None:
        # Nothing listens on an address that another machine reaches.
        local = [
            each
            for each in arguments
            if "127.0.0.1" in each
            or "unix:" in each
            or not any(name in each for name in ("port", "interface", "listen", "admin"))
        ]
        if not any("listen" in each or "admin" in each for each in local):
            local = ["--port=0", "--interface=127.0.0.1", *local]
        with tempfile.TemporaryDirectory(dir=self._folder.name) as place:
            program = str(Path(sys.executable).with_name("twistd"))
            command = [program, "-n", "--pidfile=", "echod", "--check"]
            done = prefork.shared().run(
                [*command, *local], Path(place), os.environ, PATIENCE_SECONDS
            )
            left = os.listdir(place)
        said = f"{done.returncode}: {done.stdout}{done.stderr}"
        assert done.returncode in (0, BIND_STATUS, CONFIG_STATUS), said
        assert "Traceback" not in said, said
        lines = done.stderr.splitlines()
        assert all(line.isprintable() for line in lines), said
        errors = [line for line in lines if not line.startswith("echod: warning: ")]
        assert len(errors) == bool(done.returncode), said
        assert not left, f"files are left behind: {left}"
