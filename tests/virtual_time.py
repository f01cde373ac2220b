"""A loop in which time costs nothing, and a busy machine takes none of it."""

from __future__ import annotations

import asyncio
import selectors


class VirtualLoop(asyncio.SelectorEventLoop):
    """Whoever sleeps in it wakes up at once, and the time has passed.

    It passes while a thread or another process is waited for, too: no timer may run beside these.
    """

    def __init__(self) -> None:
        super().__init__(selectors.DefaultSelector())
        self.ahead = 0.0
        wait = self._selector.select

        def select(timeout: float | None = None) -> object:
            self.ahead += timeout or 0
            return wait(0)

        self._selector.select = select

    def time(self) -> float:
        return self.ahead
