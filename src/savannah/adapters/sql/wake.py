"""Wake-ups between processes that have Postgres in common and no Redis: LISTEN and NOTIFY.

A wake-up is a hint, sent after the commit and never within it, where every writer would queue for
Postgres's one lock on notifications. What is lost costs the relay's next look, a second at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]  # it ships none

from savannah.adapters.sql.engines import address_of
from savannah.adapters.sql.pool import FAILURES, Pool, PostgresSettings

log = logging.getLogger("savannah.sql")

_CHANNEL: Final = "savannah_wake"
_AGAIN_AFTER_S: Final = 0.5
_STILL_THERE_EVERY_S: Final = 15.0
_AWAY: Final = (*FAILURES, asyncpg.PostgresError, asyncpg.InterfaceError)
_PATIENCE: Final = timedelta(seconds=5)


class PostgresWakes:
    """Tells other processes that something is due, or hears it, over one connection of its own.

    Not through PgBouncer in transaction mode, where nobody can listen.
    """

    def __init__(self, url: str) -> None:
        settings = PostgresSettings(
            pool_size=1,
            wait=_PATIENCE,
            statement_timeout=_PATIENCE,
            lock_timeout=_PATIENCE,
            prepared_statements=True,
            replica_retry=_PATIENCE,
        )
        self._pool = Pool(address_of(url), settings)
        self._telling: asyncio.Task[None] | None = None
        self._tell_again = False
        self._listening: asyncio.Task[None] | None = None

    def tell(self) -> None:
        """Wake whoever listens; those that come meanwhile become one. Never blocks or fails."""
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell())
        else:
            self._tell_again = True

    async def _tell(self) -> None:
        self._tell_again = True
        while self._tell_again:
            self._tell_again = False
            try:
                seat = await self._pool.take()
                try:
                    await seat.execute(f"NOTIFY {_CHANNEL}")
                finally:
                    self._pool.give(seat)
            except _AWAY as error:
                log.debug("a wake-up was lost", extra={"error": type(error).__name__})

    def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` for each wake-up from now on, and once whenever one may have been missed."""
        self._listening = asyncio.create_task(self._listen(heard), name="savannah-listen")

    async def _listen(self, heard: Callable[[], None]) -> None:
        while True:
            try:
                await self._listen_once(heard)
            except _AWAY as error:
                log.debug("nobody can wake us now", extra={"error": type(error).__name__})
            except Exception:  # whatever it is, we listen again
                log.exception("the listener for wake-ups failed")
            await asyncio.sleep(_AGAIN_AFTER_S)

    async def _listen_once(self, heard: Callable[[], None]) -> None:
        seat = await self._pool.take()
        driver: Any = seat.driver
        ended = asyncio.Event()
        driver.add_termination_listener(lambda *_: ended.set())
        try:
            await driver.add_listener(_CHANNEL, lambda *_: heard())
            heard()
            while not ended.is_set():
                try:
                    async with asyncio.timeout(_STILL_THERE_EVERY_S):
                        await ended.wait()
                except TimeoutError:
                    await driver.execute("SELECT 1")  # fails when the way there is broken
        finally:
            driver.terminate()  # what it listens to ends with it
            self._pool.give(seat)

    async def close(self) -> None:
        """Neither tell nor hear any more."""
        tasks = [task for task in (self._telling, self._listening) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()
