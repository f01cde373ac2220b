"""Several processes under one: they are started, watched, started again, and ended in order.

Knows nothing of what they do.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, Final

log = logging.getLogger("savannah.supervisor")

# Forking would copy whatever threads and loops the parent has; a spawned child begins afresh.
_SPAWN: Final = multiprocessing.get_context("spawn")
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_START_LIMIT_S: Final = 60.0
_STOP_LIMIT_S: Final = 30.0

Ready = Callable[[], None]


class CannotStart(Exception):
    """The process must not or cannot run; the text says why and what to do."""


@contextlib.contextmanager
def ended_by_signals(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call `stop` for SIGINT and SIGTERM instead of dying of them."""
    before = {number: signal.signal(number, stop) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Child:
    """One process to be: `target` is called in it with the arguments and a `Ready` to call."""

    def __init__(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        self._target = target
        self._arguments = arguments

    def start(self) -> None:
        self._hears, says = _SPAWN.Pipe(duplex=False)
        self._is_ready = False
        self._process = _SPAWN.Process(
            target=_begin, args=(self._target, self._arguments, says), name=self.name
        )
        self._process.start()
        says.close()

    @property
    def sentinel(self) -> int:
        return self._process.sentinel

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    @property
    def is_ready(self) -> bool:
        if not self._is_ready and self._hears.poll():
            with contextlib.suppress(EOFError):
                self._is_ready = bool(self._hears.recv())
        return self._is_ready

    def tell_to_end(self) -> None:
        self._process.terminate()

    def end_by(self, deadline: float) -> None:
        """Wait for its end, and make sure of it at that point of monotonic time."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self.exit_code is None:
            log.error("a process did not end and is killed", extra={"child": self.name})
            self._process.kill()
            self._process.join()


def _begin(target: Callable[..., None], arguments: tuple[Any, ...], says: Connection) -> None:
    target(*arguments, lambda: says.send(True))


def supervise(groups: Sequence[Sequence[Child]], ready: Ready) -> None:
    """Run the children until a signal comes. Groups end one after the other, the last one first.

    A child that dies is started again; one that dies before it was ready ends everything.

    Raises:
        CannotStart: not every child became ready.
    """
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        del number, frame
        stopping = True

    children = [child for group in groups for child in group]
    started: list[Child] = []
    with ended_by_signals(stop):
        try:
            for child in children:
                child.start()
                started.append(child)
            deadline: float | None = time.monotonic() + _START_LIMIT_S
            while not stopping:
                wait([child.sentinel for child in children], timeout=0.1)
                for child in children:
                    if child.is_ready or stopping:
                        continue
                    if child.exit_code is not None:
                        raise CannotStart(f"the {child.name} process ended while it was starting")
                    if deadline is not None and time.monotonic() > deadline:
                        raise CannotStart(f"the {child.name} process did not become ready in time")
                if deadline is not None and all(child.is_ready for child in children):
                    deadline = None
                    ready()
                for child in children:
                    if child.exit_code is not None and not stopping:
                        told = {"child": child.name, "exit_code": child.exit_code}
                        log.error("a process died and is started again", extra=told)
                        child.start()
        finally:
            for group in reversed(groups):
                running = [child for child in group if child in started]
                for child in running:
                    child.tell_to_end()
                end_by = time.monotonic() + _STOP_LIMIT_S
                for child in running:
                    child.end_by(end_by)
