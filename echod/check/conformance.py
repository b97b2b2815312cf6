"""
The conformance suite: cases in which an echo server may lose bytes.

L{CASES} lists them; each is a function below L{Case}.

Invariant: each case fails with the fault that it finds, and leaves no connection open.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater

from echod.check.connect import Dial, gather, timeout_after
from echod.check.probe import HALF_CLOSE_SHARE, PERIOD, Pattern, Probe
from echod.check.results import CaseResult, CheckError, CheckResult, Outcome
from echod.check.stream import IByteStream

KIB = 1024
MIB = 1024 * KIB

TIMES = 5
"""How often a case with a half-close runs: whether the server loses bytes is a race."""

BURSTS = 20
BURST_BYTES = 40 * KIB
SLOW_READ_DELAY = 0.5
SLOW_READ_INTERVAL = 0.002
"""Seconds before the first read of a slow reader, and between its reads."""

SMALL_WRITES = 1000
CLIENTS = 100
CLIENT_BYTES = 64 * KIB
UNREAD_BYTES = 16 * MIB
UNREAD_CHECK_INTERVAL = 0.2
"""How often, in seconds, to look whether the server still reads from a client that does not."""

ABORTS = 10
ABORT_BYTES = 256 * KIB
IDLE_TIME = 1.5
"""Seconds."""

PAIRS = b"".join(bytes((one, other)) for one in range(256) for other in range(256))
"""Each pair of byte values."""


class Case:
    """
    One run of one case: its connections, and its probes.
    """

    def __init__(self, clock: Any, dial: Dial, timeout_seconds: float, pattern: Pattern):
        self.clock = clock
        self.probes: list[Probe] = []
        self._dial = dial
        self._timeout = timeout_seconds
        self._pattern = pattern
        self._streams: list[IByteStream] = []

    async def connect(self) -> IByteStream:
        """
        Make a connection, which is closed at the end of the case.
        """
        stream = await self._dial(CheckResult())
        self._streams.append(stream)
        return stream

    def probe(self, stream: IByteStream, size: int, pattern: Pattern | None = None) -> Probe:
        """
        Make a probe whose bytes are counted.

        @param pattern: its pattern; by default the random one, at an offset of its own.
        """
        if pattern is None:
            start = self._pattern.start + len(self.probes) * 7919
            pattern = Pattern(self._pattern.block, start)
        probe = Probe(self.clock, stream, pattern, size)
        self.probes.append(probe)
        return probe

    async def echo(self, size: int, **how: Any) -> None:
        """
        Run a probe on a new connection; see L{Probe.run}.
        """
        await self.run(self.probe(await self.connect(), size), **how)

    async def run(self, probe: Probe, **how: Any) -> None:
        """
        Run a probe within the timeout of the case.
        """
        await probe.run(self._timeout * HALF_CLOSE_SHARE, **how)

    def pause(self, seconds: float) -> Deferred[None]:
        """
        Wait for some seconds.
        """
        return deferLater(self.clock, seconds, lambda: None)

    def end(self) -> None:
        """
        Close all connections of the case.
        """
        for stream in self._streams:
            stream.abort()


async def one_byte(case: Case) -> None:
    """
    One byte, and a half-close right after it.
    """
    for _ in range(TIMES):
        await case.echo(1, half_close=True)


async def eight_mib(case: Case) -> None:
    """
    8 MiB, and a half-close right after them.
    """
    for _ in range(TIMES):
        await case.echo(8 * MIB, half_close=True)


async def burst(case: Case) -> None:
    """
    A few KiB and the half-close in one burst, many times.
    """
    for _ in range(BURSTS):
        await case.echo(BURST_BYTES, half_close=True)


async def slow_reader(case: Case) -> None:
    """
    8 MiB and a half-close; the client reads nothing at first, and then slowly.
    """
    stream = await case.connect()
    stream.pause()
    await case.run(
        case.probe(stream, 8 * MIB),
        half_close=True,
        read_pace=lambda: case.pause(SLOW_READ_INTERVAL),
        read_after=case.pause(SLOW_READ_DELAY),
    )


async def small_writes(case: Case) -> None:
    """
    Many writes of one byte.
    """
    await case.echo(SMALL_WRITES, piece_bytes=1, send_pace=lambda: case.pause(0))


async def large(case: Case) -> None:
    """
    64 MiB.
    """
    await case.echo(64 * MIB)


async def all_values(case: Case) -> None:
    """
    All byte values, in all pairs.
    """
    stream = await case.connect()
    await case.run(case.probe(stream, len(PAIRS), Pattern(PAIRS)))


async def many_clients(case: Case) -> None:
    """
    Many clients at the same time.
    """
    streams = [await case.connect() for _ in range(CLIENTS)]
    await gather(*(case.run(case.probe(each, CLIENT_BYTES)) for each in streams))


async def unread(case: Case) -> None:
    """
    A client that sends without reading until the server stops receiving, and then reads.
    """
    stream = await case.connect()
    stream.pause()
    probe = case.probe(stream, UNREAD_BYTES)

    async def stalled() -> None:
        before = -1
        while before != probe.sent:
            before = probe.sent
            await case.pause(UNREAD_CHECK_INTERVAL)

    await case.run(probe, read_after=stalled())


async def aborts(case: Case) -> None:
    """
    A client, while others abort their connections.
    """

    async def abort_others() -> None:
        for number in range(ABORTS):
            stream = await case.connect()
            # The server is in the middle of this echo when the connection is lost.
            await stream.write(Pattern(PAIRS, number).at(0, ABORT_BYTES))
            stream.abort()

    await gather(case.echo(8 * MIB), abort_others())


async def idle(case: Case) -> None:
    """
    A client that sends nothing for a while.
    """
    stream = await case.connect()
    await case.pause(IDLE_TIME)
    await case.run(case.probe(stream, KIB))


Steps = Callable[[Case], Coroutine[Any, Any, None]]
"""What a client does in a case."""

CASES: tuple[tuple[str, Steps], ...] = (
    (f"1 byte, half-close, {TIMES} times", one_byte),
    (f"8 MiB, half-close, {TIMES} times", eight_mib),
    (f"data and half-close at once, {BURSTS} times", burst),
    ("slow reader, 8 MiB, half-close", slow_reader),
    (f"{SMALL_WRITES} writes of 1 byte", small_writes),
    ("64 MiB", large),
    ("all byte values", all_values),
    (f"{CLIENTS} clients at once", many_clients),
    ("send 16 MiB, then read", unread),
    ("other clients abort", aborts),
    ("idle, then echo", idle),
)


async def run_case(
    name: str, steps: Steps, clock: Any, dial: Dial, timeout_seconds: float
) -> CaseResult:
    """
    Run one case.
    """
    case = Case(clock, dial, timeout_seconds, Pattern.random(PERIOD))
    start = clock.seconds()
    failure = None
    try:
        await timeout_after(clock, timeout_seconds, steps(case))
    except CheckError as error:
        failure = error
    except TimeoutError:
        failure = CheckError(Outcome.TIMED_OUT, f"after {timeout_seconds:g} s")
    finally:
        case.end()
    lost = sum(each.comparison.lost for each in case.probes)
    sent = sum(each.comparison.size for each in case.probes)
    return CaseResult(name, sent, lost, clock.seconds() - start, failure)


async def conformance(
    clock: Any, dial: Dial, timeout_seconds: float, report: Callable[[CaseResult], None]
) -> bool:
    """
    Run the suite.

    @param timeout_seconds: the timeout of each case.
    @param report: called with the result of each case when it ends.
    @return: whether all cases passed.
    """
    passed = True
    for name, steps in CASES:
        result = await run_case(name, steps, clock, dial, timeout_seconds)
        report(result)
        passed = passed and result.passed
    return passed
