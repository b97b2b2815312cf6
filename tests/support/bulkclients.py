"""
Clients that send at full speed, in a process of their own: C{bulkclients.py PORT CLIENTS}.

It prints a line once each client has received bytes, and runs until it is killed.  It does not
look at what comes back, so the server is what limits the speed.
"""

import selectors
import socket
import sys

if __name__ == "__main__":
    port, number = int(sys.argv[1]), int(sys.argv[2])
    outgoing, incoming = bytes(256 * 1024), bytearray(256 * 1024)
    selector = selectors.DefaultSelector()
    silent = set()
    for _ in range(number):
        client = socket.create_connection(("127.0.0.1", port))
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ | selectors.EVENT_WRITE)
        silent.add(client)
    while True:
        for key, events in selector.select():
            client = key.fileobj
            try:
                if events & selectors.EVENT_READ:
                    if not client.recv_into(incoming):
                        raise SystemExit("the server has closed a connection")
                    if client in silent:
                        silent.remove(client)
                        if not silent:
                            print("streaming", flush=True)
                if events & selectors.EVENT_WRITE:
                    client.send(outgoing)
            except BlockingIOError:
                pass
