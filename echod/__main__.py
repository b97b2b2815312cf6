"""
The command C{echod}, and C{python -m echod}: short for C{twistd --nodaemon --pidfile= echod}.

Invariant: twistd runs the daemon, as if it had been called itself.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run the daemon in the foreground.

    @param arguments: echod's options; C{None} for those of the process.
    @raise SystemExit: as twistd exits.
    """
    # Until twistd handles it, Ctrl-C would print a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Imported here, since this takes time.
    from twisted.plugins.echod_plugin import echod as maker
    from twisted.scripts import twistd

    class ForegroundOptions(twistd.ServerOptions):  # type: ignore[name-defined, misc]  # not in __all__
        """
        The options of twistd, for a command line without them.
        """

        def getSynopsis(self) -> str:
            return "Usage:"

        @property
        def subCommands(self) -> Iterator[tuple[str, None, Any, str]]:
            # No other plugin is looked for, so that no list of plugins has to be written.
            self.loadedPlugins = {maker.tapname: maker}
            yield maker.tapname, None, lambda: maker.options(), maker.description

    config = ForegroundOptions()
    given = sys.argv[1:] if arguments is None else arguments
    config.parseOptions(["--nodaemon", "--pidfile=", maker.tapname, *given])
    twistd.runApp(config)


if __name__ == "__main__":
    main()
