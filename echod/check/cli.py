"""
C{echod-check}: is this echo alive, exact and fast?

Invariant: it may be run every few seconds to say that a container is alive,
so nothing is imported that the question at hand does not need.
"""

import signal
import sys
import time
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react
from twisted.python.usage import UsageError

from echod._util.stdio import report_output_error
from echod.check.connect import Connector, Secure
from echod.check.options import CheckOptions
from echod.check.results import Outcome
from echod.check.runner import Runner


def make_tls(options: CheckOptions) -> Secure | None:
    """
    Read the files that the options for TLS name.

    @return: how to shake hands, C{None} for plain.
    @raise UsageError: when a file cannot be used.
    """
    if not options["tls"]:
        return None
    from echod.check.tls import ClientTLS, FileError

    try:
        return ClientTLS(
            options["servername"] or options.host,
            authorities=options["ca"],
            certificate=options["cert"],
            key=options["key"],
            alpn=options["alpn"] or (),
            version=options["tls-version"],
            verify=not options["insecure"],
        ).secure
    except FileError as error:
        raise UsageError(str(error)) from None


def leave_out_openssl(options: CheckOptions, modules: MutableMapping[str, Any]) -> None:
    """
    Have Twisted go without OpenSSL, as it does where that is not installed: a third of the
    time that a plain check takes would be spent on importing it.  Nothing of this process
    asks for it afterwards.

    @param modules: C{sys.modules}.
    """
    if not options["tls"] and "OpenSSL" not in modules:
        modules["OpenSSL"] = None


def on_interrupt(reactor: Any, stop: Callable[[], object]) -> None:
    """
    Make of Ctrl-C and SIGTERM an end of our own; the reactor's own would look like success.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: reactor.callFromThread(stop))


async def perform(reactor: Any, work: Runner) -> None:
    """
    Run the command.

    @raise SystemExit: always, with its status.
    """
    running = Deferred.fromCoroutine(work.run())
    reactor.callWhenRunning(on_interrupt, reactor, running.cancel)
    try:
        outcome = await running
    except CancelledError:
        outcome = Outcome.INTERRUPTED
    except OSError as error:
        outcome = work.output_failed(error)
    raise SystemExit(outcome.status)


def command(arguments: Sequence[str] | None, run: Callable[..., None] = react) -> None:
    """
    The command, from its arguments to its exit status.

    @param arguments: the command line; C{None} for the process's own.
    @param run: what runs the reactor.
    @raise SystemExit: always, with a status of L{Outcome}.
    """
    options = CheckOptions()
    try:
        try:
            options.parseOptions(arguments)
        finally:
            # It may have printed the help.
            sys.stdout.flush()
        leave_out_openssl(options, sys.modules)
        secure = make_tls(options)
    except UsageError as error:
        with suppress(OSError):
            print(f"echod-check: {error}", file=sys.stderr)
        raise SystemExit(Outcome.USAGE.status) from None
    except OSError as error:
        report_output_error("echod-check", error, sys.stdout, sys.stderr)
        raise SystemExit(Outcome.USAGE.status) from None
    # The one place where the reactor is imported; all else is handed it.
    from twisted.internet import reactor

    # By the wall clock, a step would be measured as an echo.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
    dialler = Connector(
        reactor, options.connect, secure, options["proxy-header"], options["proxy-source"]
    )
    work = Runner(reactor, options, dialler, sys.stdout, sys.stderr)
    run(lambda r: Deferred.fromCoroutine(perform(r, work)), _reactor=reactor)
