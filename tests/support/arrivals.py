"""
Waits until what was sent over the loopback interface has arrived.

The kernel may deliver it after send(2), connect(2) or close(2) has returned: each CPU has a queue
of packets, which ksoftirqd works off when the CPU is busy (netif_rx in net/core/dev.c of Linux).

Invariant: what this thread sent before is in the queue of a CPU that it may run on, ahead of the
marker that is sent there.
"""

import contextlib
import os
import socket
from collections.abc import Iterator

ROUNDS = 2
"""The second is for what the kernel answers itself, such as an ICMP error."""


def wait_for_arrival() -> None:
    """
    Wait until all that this thread has sent has arrived, and what the kernel answered.

    @raise TimeoutError: after 60 s.
    """
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(60)
        sender.connect(receiver.getsockname())
        cpus = os.sched_getaffinity(0)
        for _ in range(ROUNDS):
            try:
                for cpu in cpus:
                    if len(cpus) > 1:
                        os.sched_setaffinity(0, {cpu})
                    sender.send(b"marker")
            finally:
                if len(cpus) > 1:
                    os.sched_setaffinity(0, cpus)
            for _ in cpus:
                receiver.recv(6)


@contextlib.contextmanager
def on_one_cpu() -> Iterator[None]:
    """
    Keep this thread on one CPU, so that L{wait_for_arrival} needs one marker and is quick.
    """
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)
