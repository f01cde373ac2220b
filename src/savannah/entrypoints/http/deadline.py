"""How long an answer may take: a handler that hangs does not hold its caller for ever."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import msgspec
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from savannah.entrypoints.http import problems
from savannah.entrypoints.http.operations import canonical_path

log = logging.getLogger("savannah.http")


class Deadline:
    """Answers 503 in place of an application that did not begin to answer in time.

    Whether the request took effect is not known then, as with any answer that is lost; an
    `Idempotency-Key` makes it safe to send again.

    Args:
        exempt: the beginning of paths that may take longer.
    """

    def __init__(self, app: ASGIApp, limit: timedelta, *, exempt: str) -> None:
        self._app = app
        self._limit_s = limit.total_seconds()
        self._exempt = exempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if str(scope["type"]) != "http" or scope["path"].startswith(self._exempt):
            await self._app(scope, receive, send)
            return
        begun = False
        limit = asyncio.timeout(self._limit_s)

        async def send_on(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with limit:
                await self._app(scope, receive, send_on)
        except TimeoutError:
            if not limit.expired():
                raise
            log.error("a request took too long", extra={"begun": begun})  # noqa: TRY400  no fault of the code that waited
            if begun:
                return  # the server ends a connection whose answer is not complete
            scope["state"][problems.PROBLEM_STATE] = "service_unavailable"
            body = msgspec.json.encode(
                problems.document(
                    status=503,
                    code="service_unavailable",
                    detail="The request took too long",
                    instance=canonical_path(scope["path"]),
                )
            )
            headers = [
                (b"content-type", problems.MEDIA_TYPE.encode()),
                (b"content-length", str(len(body)).encode()),
                (b"retry-after", b"1"),
            ]
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": False})
