"""
The gate, as the options have it: who may come in, on whose word, and for how long.

Invariant: it only translates; what an option means is the business of the room
that it is for.
"""

from twisted.internet.interfaces import IReactorTime

from echod.connections.admission import AccessRules, Admission, RateLimiter
from echod.connections.timeouts import Timeouts
from echod.connections.tracker import Connections
from echod.options import Options
from echod.proxyprotocol.protocol import ProxyPolicy


def time_limits(options: Options) -> Timeouts:
    """
    How long what may take.
    """
    return Timeouts(
        handshake=options["handshake-timeout"],
        idle=options["idle-timeout"],
        lifetime=options["max-lifetime"],
        write=options["write-timeout"],
        proxy_header=options["proxy-header-timeout"],
    )


def admission(
    clock: IReactorTime, options: Options, connections: Connections, most: int
) -> Admission:
    """
    Who may come in.

    @param most: how many at once.
    """
    rate = options["connect-rate"]
    return Admission(
        connections,
        most,
        AccessRules(options["allow"], options["deny"]),
        options["max-per-client"],
        RateLimiter(clock, *rate) if rate else None,
    )


def proxy_policy(options: Options) -> ProxyPolicy | None:
    """
    Whose PROXY headers are believed; C{None} when none are read.
    """
    if options["proxy-protocol"] == "off":
        return None
    networks = [each for each in options["proxy-trust"] if each != "unix"]
    required = options["proxy-protocol"] == "require"
    return ProxyPolicy(required, networks, "unix" in options["proxy-trust"])
