"""
A proxy that adds faults (toxics) to a network, upstream to the server and downstream to the
client.

Invariant: without toxics it forwards every byte in order, and each end as it was: a FIN as a FIN,
a reset as a reset.  It records what broke a connection.  All random choices come from a seed
and the number of the connection.
"""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from tests.support.clients import reset
from tests.support.toxics import DOWN, UP, Broken, Chunk, Toxic

READ_BYTES = 64 * 1024
UNDER_WAY = 16
"""Most chunks in flight in one direction; then the proxy stops reading."""


class Link:
    """
    One connection through the proxy.

    @ivar toxics: its faults.
    @ivar rng: its random numbers.
    @ivar broken_by: the toxic that ended it, if one did.
    @ivar failure: any other error that ended it early, in words.
    """

    def __init__(self, toxics: Sequence[Toxic], rng: random.Random):
        self.toxics = toxics
        self.broken_by: Toxic | None = None
        self.failure = ""
        self.rng = rng

    async def run(self, client: socket.socket, server: socket.socket, first: bytes) -> None:
        """
        Forward until both sides have ended.

        @param first: bytes to send to the server first.
        """
        end = socket.socket.close
        rngs = [random.Random(self.rng.random()) for _ in range(2)]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(client, server, UP, rngs[0], first))
                group.create_task(self._pass(server, client, DOWN, rngs[1]))
        except* Broken as broken:
            for error in broken.exceptions:
                assert isinstance(error, Broken)
                self.broken_by = error.toxic
                end = reset if error.reset else end
        except* OSError as errors:
            self.failure = "; ".join(map(str, errors.exceptions))
            end = reset
        finally:
            end(client)
            end(server)

    async def _pass(
        self,
        source: socket.socket,
        sink: socket.socket,
        stream: str,
        rng: random.Random,
        first: bytes = b"",
    ) -> None:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[Chunk | None] = asyncio.Queue(UNDER_WAY)

        async def receive() -> None:
            if first:
                await waiting.put((loop.time(), first))
            while data := await loop.sock_recv(source, READ_BYTES):
                await waiting.put((loop.time(), data))
            await waiting.put(None)

        async def received() -> AsyncIterator[Chunk]:
            while (chunk := await waiting.get()) is not None:
                yield chunk

        chunks = received()
        for toxic in self.toxics:
            if toxic.stream == stream:
                chunks = toxic.through(chunks, rng)
        receiving = asyncio.ensure_future(receive())
        # What breaks while receiving has to be seen by who waits for more.
        sending = asyncio.ensure_future(self._send(chunks, sink))
        try:
            await asyncio.gather(receiving, sending)
        finally:
            for task in (receiving, sending):
                task.cancel()
            await asyncio.gather(receiving, sending, return_exceptions=True)

    async def _send(self, chunks: AsyncIterator[Chunk], sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async for _, data in chunks:
            await loop.sock_sendall(sink, data)
        sink.shutdown(socket.SHUT_WR)


class FaultProxy:
    """
    Listens on a port of its own, and connects each client with one server.

    @ivar toxics: what may befall connections that are announced or accepted from now on.
    @ivar accepted: how many there have been.
    """

    def __init__(
        self,
        server: str | tuple[str, int],
        seed: object,
        header: Callable[[random.Random], bytes] = lambda rng: b"",
    ):
        """
        @param server: the path of a UNIX socket, or a host and a port.
        @param header: makes what goes before everything that a client says.
        """
        self.toxics: Sequence[Toxic] = ()
        self.accepted = 0
        self._server = server
        self._seed = seed
        self._header = header
        self._announced: dict[int, Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """
        Begin to listen.

        @return: the port.
        """
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listening.setblocking(False)
        self._accepting = asyncio.ensure_future(self._accept())
        port: int = self._listening.getsockname()[1]
        return port

    def announce(self, port: int, number: int) -> Link:
        """
        Say which number the connection from this port will have; what befalls it depends
        on that and on the seed alone.
        """
        rng = random.Random(f"{self._seed}/{number}")
        befall = [toxic for toxic in self.toxics if rng.random() < toxic.toxicity]
        link = self._announced[port] = Link(befall, rng)
        return link

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, (_, port) = await loop.sock_accept(self._listening)
            self.accepted += 1
            task = asyncio.ensure_future(self._serve(client, port))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket, port: int) -> None:
        if port not in self._announced:
            self.announce(port, -self.accepted)
        link = self._announced.pop(port)
        family = socket.AF_UNIX if isinstance(self._server, str) else socket.AF_INET
        server = socket.socket(family)
        for sock in (client, server):
            sock.setblocking(False)
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(server, self._server)
        except OSError as error:
            link.failure = f"connecting: {error}"
            reset(client)
            server.close()
            return
        await link.run(client, server, self._header(link.rng))

    async def stop(self) -> None:
        """
        Stop listening, and break what is left.
        """
        tasks = [self._accepting, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listening.close()
