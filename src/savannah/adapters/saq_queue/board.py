"""SAQ's own web page on this queue, apart from HTTP: its page, its assets, and what it asks for."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Final

from saq.job import Job
from saq.web.common import STATIC_PATH, job_dict, render

from savannah.adapters.redis_access import AWAY
from savannah.adapters.saq_queue.queue import SaqQueue
from savannah.domain.errors import NotFound, Unavailable

_KINDS: Final = {".css": "text/css", ".js": "text/javascript"}


class QueueBoard:
    """What operators see and do. Everything raises Unavailable while Redis is away.

    A job that is aborted is queued anew when the lease of its message ends, unless the message has
    gone out meanwhile: the row decides, not the job.
    """

    def __init__(self, queue: SaqQueue) -> None:
        self._saq = queue.saq

    def page(self, root: str) -> str:
        """The page, for whatever path below that root; it fetches the rest."""
        return render(root_path=root)

    @cached_property
    def assets(self) -> Mapping[str, tuple[str, bytes]]:
        """Media type and content by name, as SAQ's package has them."""
        found: dict[str, tuple[str, bytes]] = {}
        for path in sorted(STATIC_PATH.iterdir()):
            packed = path.suffix == ".gz"
            name = path.stem if packed else path.name
            content = path.read_bytes()
            kind = _KINDS.get(f".{name.rpartition('.')[2]}")
            if kind is not None:
                found[name] = (kind, gzip.decompress(content) if packed else content)
        return found

    async def queues(self) -> Mapping[str, Any]:
        async with _reachable():
            return {"queues": [await self._saq.info()]}

    async def queue(self, name: str) -> Mapping[str, Any]:
        """Raises: NotFound."""
        self._require(name)
        async with _reachable():
            return {"queue": await self._saq.info(jobs=True)}

    async def job(self, queue: str, key: str) -> Mapping[str, Any]:
        """Raises: NotFound."""
        return {"job": job_dict(await self._job(queue, key))}

    async def retry(self, queue: str, key: str) -> None:
        """Raises: NotFound."""
        job = await self._job(queue, key)
        async with _reachable():
            await job.retry("retried by an operator")

    async def abort(self, queue: str, key: str) -> None:
        """Raises: NotFound."""
        job = await self._job(queue, key)
        async with _reachable():
            await job.abort("aborted by an operator")

    async def _job(self, queue: str, key: str) -> Job:
        self._require(queue)
        async with _reachable():
            job = await self._saq.job(key)
        if job is None:
            raise NotFound("job")
        return job

    def _require(self, queue: str) -> None:
        if queue != self._saq.name:
            raise NotFound("queue")


@asynccontextmanager
async def _reachable() -> AsyncIterator[None]:
    try:
        yield
    except AWAY as error:
        raise Unavailable("The job queue does not answer") from error
