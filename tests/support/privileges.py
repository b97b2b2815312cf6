"""
Limits of ordinary users, for tests that root may run.
"""

import os
from pathlib import Path

from tests.support import needs


def unprivileged_command() -> list[str]:
    """
    A prefix for a command to which file modes and privileged ports apply: root without
    capabilities (capabilities(7)).  Unlike another user, it can read an interpreter in /root.
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
