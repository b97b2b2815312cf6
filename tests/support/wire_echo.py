"""
The echo server of Twisted's documentation, for comparison: C{twisted.protocols.wire.Echo}
on a free port, which it prints.  The reactor's name may be given as an argument.
"""

import argparse

from twisted.application.reactors import installReactor
from twisted.internet.protocol import Factory
from twisted.protocols.wire import Echo

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run an echo server until it is killed.")
    parser.add_argument("reactor", nargs="?", default="default")
    reactor = installReactor(parser.parse_args().reactor)
    port = reactor.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")
    print(f"listening on 127.0.0.1:{port.getHost().port}, --port 0", flush=True)
    reactor.run()
