"""
Clients of echod that run inside the machine, with Python's standard library only:
C{python3 client.py WHAT --port PORT ...}.  So they are not those of L{tests.support.clients}.

Invariant: a client notes what happens to it and prints it as JSON at the end.  The test says
what must happen.
"""

import argparse
import json
import os
import random
import signal
import socket
import ssl
import sys
import threading
import time

DEADLINE_SECONDS = 60.0

PIECE = 16384

BYTES = random.Random(862).randbytes(1 << 20)


def connect(arguments, timeout=DEADLINE_SECONDS):
    client = socket.create_connection((arguments.host, arguments.port), timeout)
    if arguments.ca:
        context = ssl.create_default_context(cafile=arguments.ca)
        client = context.wrap_socket(client, server_hostname="localhost")
    return client


def receive(client, size):
    data = bytearray()
    while len(data) < size and (piece := client.recv(size - len(data))):
        data += piece
    return bytes(data)


def serial(client):
    """
    The serial number of the server's certificate, C{None} without TLS.
    """
    if not isinstance(client, ssl.SSLSocket):
        return None
    return int(client.getpeercert()["serialNumber"], 16)


def once(arguments, timeout=DEADLINE_SECONDS):
    """
    One client: sends, receives its echo, and closes; without TLS, with a half-close.
    """
    data = BYTES[: arguments.bytes]
    with connect(arguments, timeout) as client:
        port, number = client.getsockname()[1], serial(client)
        echoed = b""
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            client.sendall(piece)
            echoed += receive(client, len(piece))
        if number is None and len(echoed) == len(data):
            client.shutdown(socket.SHUT_WR)
            echoed += client.recv(1)
    return {
        "exact": echoed == data,
        "right": data.startswith(echoed),
        "received": len(echoed),
        "port": port,
        "serial": number,
    }


class IdleClient(threading.Thread):
    """
    A client that stays connected, and sends a message from time to time.
    """

    def __init__(self, arguments, leaving):
        super().__init__()
        self.client = connect(arguments)
        self.port = self.client.getsockname()[1]
        self.serial = serial(self.client)
        self.sent = self.received = 0
        self.right = True
        self.end = None
        self.every = arguments.every
        self.leaving = leaving
        self.talk(64)

    def talk(self, size):
        message = BYTES[self.sent : self.sent + size]
        self.client.sendall(message)
        self.sent += size
        echoed = receive(self.client, size)
        self.received += len(echoed)
        self.right = self.right and message.startswith(echoed)
        if len(echoed) < size:
            raise EOFError

    def run(self):
        try:
            if self.every:
                while not self.leaving.wait(self.every):
                    self.talk(random.randrange(1, 2000))
            elif not self.client.recv(1) and not self.leaving.is_set():
                raise EOFError
        except (OSError, EOFError) as error:
            self.end = type(error).__name__
        self.client.close()

    def report(self):
        names = ("port", "serial", "sent", "received", "right", "end")
        return {name: getattr(self, name) for name in names}


def stay(arguments):
    """
    Several idle clients, until standard input ends.
    """
    leaving = threading.Event()
    clients = [IdleClient(arguments, leaving) for _ in range(arguments.count)]
    for client in clients:
        client.start()
    print("here", flush=True)
    sys.stdin.read()
    leaving.set()
    for client in clients:
        if client.is_alive() and not client.every:
            client.client.shutdown(socket.SHUT_RD)
        client.join(DEADLINE_SECONDS)
    return [client.report() for client in clients]


def reconnect(arguments):
    """
    Several clients, each of which connects again and again, until standard input ends.
    """
    leaving = threading.Event()
    told = {"exact": 0, "refused": 0, "others": [], "slowest": 0.0}
    lock = threading.Lock()

    def connect_again():
        while not leaving.is_set():
            began = time.monotonic()
            outcome = "refused"
            try:
                found = once(arguments)
                outcome = "exact" if found["exact"] else found
            except ConnectionRefusedError:
                pass
            except OSError as error:
                outcome = {"error": repr(error)}
            with lock:
                told["slowest"] = max(told["slowest"], time.monotonic() - began)
                if isinstance(outcome, str):
                    told[outcome] += 1
                else:
                    told["others"].append(outcome)
            time.sleep(0.01)

    threads = [threading.Thread(target=connect_again) for _ in range(arguments.count)]
    for thread in threads:
        thread.start()
    print("here", flush=True)
    sys.stdin.read()
    leaving.set()
    for thread in threads:
        thread.join(2 * DEADLINE_SECONDS)
    return told


def stall(arguments):
    """
    Stop a process, as if its event loop were blocked, and wait until echoes come again.

    @return: how many seconds that took.
    """
    os.kill(arguments.pid, signal.SIGSTOP)
    began = time.monotonic()
    while time.monotonic() < began + DEADLINE_SECONDS:
        try:
            if once(arguments, 0.2)["exact"]:
                return time.monotonic() - began
        except OSError:
            time.sleep(0.01)
    raise SystemExit("no echo came again")


def ask(arguments):
    """
    Get a resource of C{--admin}, on its UNIX socket.

    @return: the body of the answer.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_SECONDS)
        client.connect(arguments.socket)
        client.sendall(f"GET {arguments.path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while piece := client.recv(PIECE):
            answer += piece
    return answer.partition(b"\r\n\r\n")[2].decode().strip()


def main():
    parser = argparse.ArgumentParser(
        description="Play clients of an echo server, and print as JSON what they saw."
    )
    parser.add_argument("what", choices=("once", "stay", "reconnect", "stall", "ask"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--socket")
    parser.add_argument("--path")
    parser.add_argument("--ca")
    parser.add_argument("--bytes", type=int, default=5000)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--every", type=float, default=0.0)
    parser.add_argument("--pid", type=int)
    arguments = parser.parse_args()
    print(json.dumps(globals()[arguments.what](arguments)))


if __name__ == "__main__":
    main()
