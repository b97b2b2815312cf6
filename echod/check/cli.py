"""
The command, from its arguments to its exit status.

Invariant: OpenSSL, the conformance suite and the ping are imported only by a command that uses
them.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react
from twisted.python.usage import UsageError

from echod._util.sockets import descriptor_limit
from echod.check.connect import Connector, Secure
from echod.check.options import CheckOptions
from echod.check.results import DescriptorError, Outcome
from echod.check.runner import Runner

RESERVED_DESCRIPTORS = 32
"""For the standard streams, the reactor, the resolver, and what the process inherits."""


def check_descriptors(options: CheckOptions, limit: int) -> None:
    """
    Check that there are enough file descriptors for the connections.  Without one, no message
    would be sent, and the server would seem to lose it.

    @param limit: how many descriptors the process may have.
    @raise UsageError: when there are too few.
    """
    available = max(1, limit - RESERVED_DESCRIPTORS)
    if options["connections"] > available:
        raise UsageError(
            f"--connections {options['connections']}: the limit of {limit} file descriptors "
            f"allows {available}; give fewer, or raise the hard limit (ulimit -Hn)"
        )
    if options["conformance"]:
        from echod.check.conformance import CLIENTS

        if available < CLIENTS:
            raise UsageError(
                f"--conformance: needs {CLIENTS + RESERVED_DESCRIPTORS} file descriptors, and the "
                f"limit is {limit}; raise the hard limit (ulimit -Hn)"
            )


def make_tls(options: CheckOptions) -> Secure | None:
    """
    Load the files of the TLS options.

    @return: performs the TLS handshake; C{None} without C{--tls}.
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
            fingerprint=options["fingerprint"],
        ).secure
    except FileError as error:
        raise UsageError(str(error)) from None


def skip_openssl(options: CheckOptions, modules: MutableMapping[str, Any]) -> None:
    """
    Without C{--tls}, make Twisted's import of pyOpenSSL fail, as where it is not installed.  The
    import takes a third of the time of a plain check.

    @param modules: C{sys.modules}.
    """
    if not options["tls"] and "OpenSSL" not in modules:
        modules["OpenSSL"] = None


def on_interrupt(reactor: Any, stop: Callable[[], object]) -> None:
    """
    Let Ctrl-C and SIGTERM end the command.  With the reactor's own handlers the exit status
    would be 0.

    @param stop: ends the command.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: reactor.callFromThread(stop))


async def run_and_exit(reactor: Any, runner: Runner) -> None:
    """
    Run the command in the reactor.

    @raise SystemExit: always, with its exit status.
    """
    running = Deferred.fromCoroutine(runner.run())
    reactor.callWhenRunning(on_interrupt, reactor, running.cancel)
    try:
        outcome = await running
    except CancelledError:
        outcome = Outcome.INTERRUPTED
    except DescriptorError as error:
        outcome = runner.descriptors_failed(error)
    except OSError as error:
        outcome = runner.output_failed(error)
    raise SystemExit(outcome.status)


def command(
    arguments: Sequence[str] | None,
    run: Callable[..., None] = react,
    limit: Callable[[], int] = descriptor_limit,
) -> None:
    """
    Run the command.

    @param arguments: the command line; C{None} for the process's own.
    @param run: runs the reactor.
    @param limit: raises the limit on file descriptors, and returns it.
    @raise SystemExit: always, with the status of an L{Outcome}.
    """
    options = CheckOptions()
    try:
        options.parseOptions(arguments)
        skip_openssl(options, sys.modules)
        check_descriptors(options, limit())
        secure = make_tls(options)
    except UsageError as error:
        with suppress(OSError):
            print(f"echod-check: {error}", file=sys.stderr)
        raise SystemExit(Outcome.USAGE.status) from None
    # The only import of the reactor in this package.
    from twisted.internet import reactor

    # Twisted uses the wall clock here, whose steps would show in the measured times.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
    connector = Connector(
        reactor, options.connect, secure, options["proxy-header"], options["proxy-source"]
    )
    runner = Runner(reactor, options, connector, sys.stdout, sys.stderr, os.environ)
    run(lambda r: Deferred.fromCoroutine(run_and_exit(r, runner)), _reactor=reactor)
