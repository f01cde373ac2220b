"""What a worker shows to probes and to Prometheus; it serves nobody else."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar.types import ASGIApp

from savannah.entrypoints.container import Container
from savannah.entrypoints.health import Health

_PATHS: Final = ("/metrics", "/health/live", "/health/ready")
_HEADERS: Final = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


def worker_page(container: Container) -> ASGIApp:
    """`/metrics`, `/health/live` and `/health/ready` of the process with these parts."""
    metrics, watch = container.metrics(), container.watch()
    health = Health({"database": container.storage().ping, "redis": container.queue().ping})

    async def is_ready() -> bool:
        parts = await health.parts()
        return all(part.status == "ok" for part in parts.values())

    async def answer(path: str) -> tuple[int, str, bytes]:
        match path:
            case "/metrics":
                await watch.measure()
                return 200, metrics.content_type, metrics.render()
            case "/health/live":
                return _health(200, "alive")
            case _:
                return _health(200, "ready") if await is_ready() else _health(503, "not_ready")

    async def page(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
            return
        path = scope["path"].rstrip("/")
        if path not in _PATHS:
            status, kind, body = 404, "text/plain", b"There are /metrics and /health/ here.\n"
        elif scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, "text/plain", b"GET this.\n"
        else:
            status, kind, body = await answer(path)
        headers = [
            *_HEADERS,
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )

    return page


def _health(status: int, word: str) -> tuple[int, str, bytes]:
    return status, "application/json", msgspec.json.encode({"status": word})
