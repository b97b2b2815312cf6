"""
A chain of stages, from the client's bytes to the echo: what a stage is, and what it needs.

Invariant: a stage passes bytes on in their order, then the end, once.  What it delays is counted
(L{ILink.hold}), so that the connection stops reading before it is too much.
"""

from enum import Enum
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall


class End(Enum):
    """
    How the bytes end.
    """

    INPUT = "input"
    """The client has closed its sending side."""
    CLOSE = "close"
    """A fault closes the connection politely."""
    RESET = "reset"
    """A fault resets the connection, when the client has received the bytes before."""


class IStage(Protocol):
    """
    What bytes are passed on to.
    """

    def receive(self, data: bytes) -> None:
        """
        The next bytes.
        """

    def end(self, how: End) -> None:
        """
        No more bytes will come.
        """


class ILink(Protocol):
    """
    What a stage needs of its connection.

    @ivar clock: C{IReactorTime}.
    """

    clock: Any

    def hold(self, size: int) -> None:
        """
        So many bytes more are delayed; if negative, less.
        """

    def reset(self) -> None:
        """
        Reset the connection at once.
        """


class Stage:
    """
    A stage that passes all on.
    """

    def __init__(self, link: ILink, then: IStage):
        """
        @param then: the next stage.
        """
        self._link = link
        self._then = then

    def begin(self) -> None:
        """
        The echo begins: TLS is ready, if there is any.
        """

    def receive(self, data: bytes) -> None:
        self._then.receive(data)

    def end(self, how: End) -> None:
        self._then.end(how)

    def hurry(self) -> None:
        """
        Pass on at once what is delayed, and delay nothing from now on.
        """

    def stop(self) -> None:
        """
        The connection is lost: forget what is delayed.
        """


class DelayingStage(Stage):
    """
    A stage with a timer.
    """

    _timer: IDelayedCall | None = None
    _ended: End | None = None
    _hurried = False

    def _wait(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._link.clock.callLater(max(0.0, seconds), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._run()

    def _run(self) -> None:
        """
        Pass on what is due, and wait for the rest.
        """
        self._pass_end()

    def _pass_end(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self._then.end(ended)

    def hurry(self) -> None:
        self._hurried = True
        self._cancel()
        self._pass_rest()
        self._pass_end()

    def _pass_rest(self) -> None:
        """
        Pass on all bytes that are delayed.
        """

    def stop(self) -> None:
        self._cancel()
        self._ended = None

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
