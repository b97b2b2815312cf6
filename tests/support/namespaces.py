"""
Two network namespaces with a wire between them.
"""

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import SkipTest

PATIENCE_SECONDS = 60.0
SERVER, CLIENT = "10.9.8.1", "10.9.8.2"


def ip(*arguments: str) -> None:
    """
    Run ip(8).

    @raise SkipTest: when this user or machine has no network namespaces.
    """
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SkipTest(f"ip {' '.join(arguments)}: {error}") from None


class Namespace:
    """
    A network namespace, with one end of the wire.
    """

    def __init__(self, name: str):
        self.name = name

    def call(self, function: Callable[[], Any]) -> Any:
        """
        Call something in a thread that is in here: sockets stay where they are made.
        """
        results = []

        def run() -> None:
            with open(f"/run/netns/{self.name}") as namespace:
                if ctypes.CDLL(None).setns(namespace.fileno(), 0):
                    raise OSError("setns")
            results.append(function())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(PATIENCE_SECONDS)
        return results[0]


@contextlib.contextmanager
def network() -> Iterator[tuple[Namespace, Namespace]]:
    """
    The server's namespace and the client's.
    """
    names = [f"echod-{os.getpid()}-{side}" for side in ("server", "client")]
    wires = [f"e{os.getpid()}{side}" for side in "sc"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            *("link", "add", wires[0], "netns", names[0], "type", "veth"),
            *("peer", "name", wires[1], "netns", names[1]),
        )
        for name, wire, address in zip(names, wires, (SERVER, CLIENT), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", wire)
            ip("-n", name, "link", "set", wire, "up")
        yield Namespace(names[0]), Namespace(names[1])
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=30)
