"""Several processes under one: they are started, watched, started again, and ended in order.

Knows nothing of what they do. On Linux they are forked, so that what this one has loaded is in
memory once. That is safe as long as it has had no thread, event loop or connection; whatever needs
one before is done in a process of its own, `in_a_process`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, Final

log = logging.getLogger("savannah.supervisor")

# Elsewhere the system's own libraries do not bear it, or there is no fork.
_FORKS: Final = sys.platform == "linux"
_PROCESSES: Final = (
    multiprocessing.get_context("fork") if _FORKS else multiprocessing.get_context("spawn")
)
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
        self._hears, says = _PROCESSES.Pipe(duplex=False)
        self._is_ready = False
        self._process = _PROCESSES.Process(
            target=_begin, args=(self._target, self._arguments, says), name=self.name
        )
        with _no_signals():  # a child has the parent's handlers until it has begun
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
    _begin_afresh()
    target(*arguments, lambda: says.send(True))


def _begin_afresh() -> None:
    gc.enable()
    if _FORKS:
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    """Signals that come meanwhile are heard afterwards."""
    if not _FORKS:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_a_process(work: Callable[..., None], *arguments: Any) -> None:
    """Do something in a process that ends with it.

    Raises:
        CannotStart: that process ended without a word; otherwise what the work raised.
    """
    hears, says = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_told, args=(work, arguments, says), name="before")
    with _no_signals():
        process.start()
    says.close()
    try:
        error: Exception | None = hears.recv()
    except EOFError:
        raise CannotStart("a process ended while it prepared the start") from None
    finally:
        process.join()
        hears.close()
    if error is not None:
        raise error


def _told(work: Callable[..., None], arguments: tuple[Any, ...], says: Connection) -> None:
    _begin_afresh()
    try:
        work(*arguments)
    except Exception as error:  # noqa: BLE001  it is raised where it is known what it means
        says.send(error)
    else:
        says.send(None)


def share_what_is_loaded() -> None:
    """Before the first child: what is in memory now stays, and no collection writes to it."""
    gc.collect()
    gc.disable()  # it would leave holes, which the next objects fill, and so copy their pages
    gc.freeze()


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
