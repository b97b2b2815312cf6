"""
C{python -m tests.bench.udp}: what a datagram costs the server: echod, Twisted's own
C{DatagramProtocol}, and a loop of recvfrom(2) and sendto(2) in C.

The servers take turns, round by round, and each figure is the lower quartile of its rounds.
"""

import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

C_ECHO = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>

int main(void) {
    static char data[65536];
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof peer;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (bind(fd, (struct sockaddr *)&peer, length) || getsockname(fd, (void *)&peer, &length))
        return 1;
    printf("%d\n", ntohs(peer.sin_port));
    fflush(stdout);
    for (;;) {
        length = sizeof peer;
        ssize_t got = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&peer, &length);
        if (got >= 0)
            sendto(fd, data, got, 0, (struct sockaddr *)&peer, length);
    }
}
"""

STOCK = """
from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol

class Echo(DatagramProtocol):
    noisy = False

    def datagramReceived(self, datagram, addr):
        self.transport.write(datagram, addr)

port = reactor.listenUDP(0, Echo(), interface={interface!r}, maxPacketSize=65536)
print(port.getHost().port, flush=True)
reactor.run()
"""

ROUNDS = 9
DATAGRAMS = 20_000
LOST_AFTER = 1.0
"""Seconds after which a datagram counts as lost, and is sent again."""


class Server:
    """
    A server process on the first CPU.
    """

    def __init__(self, command: list[str]):
        """
        @param command: prints its port, or logs it as echod does.
        """
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"^(\d+)$|listening on \S+:(\d+), --udp", line):
                self.port = int(found[1] or found[2])
                break
        else:
            raise SystemExit(f"{command[0]} does not start")
        os.sched_setaffinity(self._process.pid, {min(os.sched_getaffinity(0))})

    def cpu(self) -> float:
        """
        The CPU time that it has used, in seconds (schedstat in proc(5)).
        """
        return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]) / 1e9

    def stop(self) -> None:
        """
        End it.
        """
        self._process.kill()
        self._process.communicate()


def play(port: int, family: int, size: int, window: int, count: int) -> int:
    """
    Send datagrams, so many at a time, and receive their echoes.

    @return: how many were lost.
    """
    lost = 0
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
        client.settimeout(LOST_AFTER)
        datagram = bytes(size)
        for _ in range(window):
            client.send(datagram)
        for number in range(count):
            try:
                client.recv(65536)
            except TimeoutError:
                lost += 1
            if number < count - window:
                client.send(datagram)
    return lost


def servers(folder: str) -> dict[str, Server]:
    """
    Start the servers, by name.

    @param folder: for the C program.
    """
    echod = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "echod"]
    # The rate is counted, as by default, and not reached.
    echod += ["--udp-rate", "999999", "--udp-listen"]
    commands = {
        "echod": [*echod, "udp:0:interface=127.0.0.1"],
        "echod, IPv4 and IPv6": [*echod, "udp:0"],
        "stock Twisted": [sys.executable, "-c", STOCK.format(interface="127.0.0.1")],
    }
    if compiler := shutil.which("cc"):
        program = f"{folder}/echo"
        subprocess.run([compiler, "-O2", "-x", "c", "-o", program, "-"], input=C_ECHO.encode())
        commands["C"] = [program]
    return {name: Server(command) for name, command in commands.items()}


def main() -> None:
    """
    Measure, and print a table.
    """
    parser = argparse.ArgumentParser(description="What a datagram costs the server.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--datagrams", type=int, default=DATAGRAMS)
    asked = parser.parse_args()
    rounds, count = asked.rounds, asked.datagrams
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        running = servers(folder)
        try:
            print(f"{'CPU for a datagram, in us':<28}" + "".join(f"{n:>22}" for n in running))
            for size, window in ((64, 1), (64, 16), (1400, 16), (16384, 4)):
                figures: dict[str, list[float]] = {name: [] for name in running}
                for _ in range(rounds):
                    for name, server in running.items():
                        before = server.cpu()
                        lost = play(server.port, socket.AF_INET, size, window, count)
                        used = server.cpu() - before
                        figures[name].append(used / (count - lost) * 1e6)
                best = {name: statistics.quantiles(each)[0] for name, each in figures.items()}
                stock = best["stock Twisted"]
                cells = (f"{each:.2f} ({each / stock:.2f})" for each in best.values())
                row = f"{size} bytes, {window} at a time"
                print(f"{row:<28}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
        finally:
            for server in running.values():
                server.stop()
    print("In parentheses: by stock Twisted.")


if __name__ == "__main__":
    main()
