"""
Captures warnings, for C{--check}.

Invariant: other log observers get the same events.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import provider

from echod._util.text import escape


@contextmanager
def captured_warnings() -> Iterator[list[str]]:
    """
    The texts of the warnings that are logged while the C{with} block runs, each once.
    """
    found: list[str] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_level") is LogLevel.warn:
            text = escape(formatEvent(event))
            if text not in found:
                found.append(text)

    globalLogPublisher.addObserver(observe)
    try:
        yield found
    finally:
        globalLogPublisher.removeObserver(observe)
