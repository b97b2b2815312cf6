"""
What an ordinary user may not do, for tests that root runs too.
"""

import os
from pathlib import Path

from tests.support import needs


def unprivileged_command() -> list[str]:
    """
    What to put before a command so that the modes of files and the privileged ports
    hold for it: root without capabilities (capabilities(7)) is an ordinary user, one
    that can still reach an interpreter in root's own folder.
    """
    if os.geteuid() != 0:
        return []
    dropping = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
    needs.command(*dropping, "true", what="setpriv --bounding-set")
    return dropping


def privileged_ports() -> range:
    """
    The ports that an ordinary user may not bind (ip(7)).
    """
    start = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    return range(1, int(start.read_text()) if start.exists() else 1024)
