"""
What a worker is told when it is started: who it is, what it listens on, and its share.

The rule of this room: all of it stands in one variable of the environment, which is read
once and dropped; the sockets themselves are descriptors in the order that it says.
"""

import json
from collections.abc import MutableMapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

VARIABLE = "ECHOD_WORKER"

FIRST_DESCRIPTOR = 3
"""Where a worker's sockets begin, after standard input, output and error."""


@dataclass(frozen=True)
class Handed:
    """
    A listening socket that a worker is handed.

    @ivar name: what logs and totals call the listener.
    @ivar option: the option that asked for it.
    @ivar borrowed: whether the parent itself was lent the socket.
    """

    name: str
    option: str
    tls: bool
    borrowed: bool


@dataclass(frozen=True)
class Assignment:
    """
    What one worker is told.

    @ivar worker: its name.
    @ivar shares: how many connections each worker may have at once.
    @ivar listeners: its sockets.
    @ivar first: the descriptor of the first of them; the others follow.
    """

    worker: str
    shares: Sequence[int]
    listeners: Sequence[Handed]
    first: int = FIRST_DESCRIPTOR

    @property
    def place(self) -> int:
        """
        Which one it is, from 0.
        """
        return int(self.worker)

    @property
    def max_connections(self) -> int:
        """
        How many connections it may have.
        """
        return self.shares[self.place]

    @property
    def lifeline(self) -> int:
        """
        The descriptor of its end of the lifeline.
        """
        return self.first + len(self.listeners)

    @property
    def table(self) -> int:
        """
        The descriptor of the memory that all workers share.
        """
        return self.lifeline + 1

    def to_text(self) -> str:
        """
        The value of the variable.
        """
        return json.dumps(asdict(self))

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str]) -> Self | None:
        """
        Take it from the environment.

        @return: C{None} in a process that is no worker.
        """
        text = environ.pop(VARIABLE, None)
        if text is None:
            return None
        fields = json.loads(text)
        fields["listeners"] = [Handed(**each) for each in fields["listeners"]]
        return cls(**fields)


def shares(total: int, count: int) -> list[int]:
    """
    Divide a total into so many shares that differ by one at most.
    """
    least, over = divmod(total, count)
    return [least + (index < over) for index in range(count)]
