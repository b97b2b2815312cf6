"""
The workers that live: from here they are asked, and told what to do, all at once.

The rule of this room: nobody is waited for longer than was said; who does not answer has
no answer, and who does not answer at all is killed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from echod.workers.channel import Message
from echod.workers.process import Child

log = Logger(namespace="echod.workers")

ASK_SECONDS = 2.0
"""How often each worker is asked whether it is alive."""

MOST_SILENT = 5
"""It is stuck when it has said nothing since so many questions."""


class Crew:
    """
    The workers of one daemon that live, one for a name.
    """

    def __init__(self, clock: IReactorTime, names: Sequence[str]):
        self._clock = clock
        self._names = names
        self._children: dict[str, Child] = {}
        self._past = (0, 0, 0)

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children.values())

    def __len__(self) -> int:
        return len(self._children)

    def add(self, child: Child) -> None:
        """
        One more has been started.
        """
        self._children[child.name] = child

    def remove(self, child: Child) -> None:
        """
        One has ended.
        """
        del self._children[child.name]
        _, echoed, refused = child.totals
        self._past = (0, self._past[1] + echoed, self._past[2] + refused)

    def tell_all(self, **message: Any) -> None:
        """
        Tell each what to do.
        """
        for child in self:
            child.tell(**message)

    def ask_all(self, seconds: float, **question: Any) -> Deferred[dict[str, Message | None]]:
        """
        Ask each something.

        @param seconds: how long they have.
        @return: their answers by name, C{None} for one that gives none in time.
        """
        asked = [
            (name, self._children[name].ask(**question).addTimeout(seconds, self._clock))
            for name in self._names
            if name in self._children
        ]

        def collect(results: list[tuple[bool, Any]]) -> dict[str, Message | None]:
            answers: dict[str, Message | None] = dict.fromkeys(self._names)
            for (name, _), (answered, answer) in zip(asked, results, strict=True):
                if answered:
                    answers[name] = answer
            return answers

        waiting: Deferred[Any] = DeferredList([each for _, each in asked], consumeErrors=True)
        return waiting.addCallback(collect)

    def look_after(self) -> None:
        """
        Ask each whether it is alive, and kill who has been asked too often.
        """
        for child in self:
            if child.silent < MOST_SILENT:
                child.silent += 1
                child.ask().addErrback(lambda failure: failure.trap(CancelledError))
            else:
                log.error(
                    "worker {worker} has not answered for {seconds:.0f} s; it is killed",
                    event="worker-stuck",
                    worker=child.name,
                    seconds=child.silent * ASK_SECONDS,
                )
                child.kill()

    def totals(self) -> tuple[int, int, int]:
        """
        How many connections they have, and how many bytes they and those before them have
        echoed and clients refused, as they have said last.
        """
        totals = [child.totals for child in self]
        connections, echoed, refused = map(sum, zip(self._past, *totals, strict=True))
        return connections, echoed, refused
