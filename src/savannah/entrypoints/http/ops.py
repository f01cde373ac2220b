"""What operators and probes read: health, metrics, and a page on every problem code."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from html import escape
from importlib.metadata import version
from typing import Final, Literal

import msgspec
from litestar import MediaType, Response
from litestar.params import FromPath

from savannah.application.savannah import Savannah
from savannah.domain.errors import NotFound
from savannah.entrypoints.health import Health, HealthCheck, PartHealth
from savannah.entrypoints.http import problems
from savannah.entrypoints.http.door import (
    AnyResponse,
    TheDoor,
    json_response,
)
from savannah.entrypoints.http.operations import Moment, Operation, endpoint
from savannah.entrypoints.http.requests import AnyRequest, read_query

TAG: Final = "Operations"
VERSION: Final = version("savannah")
OLD_QUEUE_S: Final = 300


class HealthOut(msgspec.Struct):
    """`degraded` still serves: texts go out late."""

    status: Literal["healthy", "degraded", "unhealthy"]
    service: str
    version: str
    timestamp: Moment
    checks: dict[str, PartHealth]


class LifeOut(msgspec.Struct):
    status: Literal["alive", "ready", "not_ready"]


def health_of(savannah: Savannah, others: Mapping[str, HealthCheck]) -> Health:
    """What a server asks of its parts: storage, the queue of texts, and others by name."""

    async def queue() -> PartHealth:
        _, age = await savannah.notifications.backlog()
        seconds = int(age.total_seconds())
        return PartHealth(
            status="degraded" if seconds > OLD_QUEUE_S else "ok", oldest_age_s=seconds
        )

    return Health({"database": savannah.storage.ping, "queue": queue, **others})


def _verdict(parts: Mapping[str, PartHealth]) -> Literal["healthy", "degraded", "unhealthy"]:
    if any(part.status == "down" for name, part in parts.items() if name != "queue"):
        return "unhealthy"
    return "healthy" if parts["queue"].status == "ok" else "degraded"


@endpoint(
    "GET",
    "/auth/health/",
    Operation(
        id="getHealth",
        tag=TAG,
        summary="How the service and its parts are",
        auth="none",
        answer=HealthOut,
        likewise=(503,),
    ),
)
async def get_health(request: AnyRequest, door: TheDoor) -> AnyResponse:
    await read_query(request)
    found = await door.health.parts()
    parts = {"database": found.pop("database"), "redis": PartHealth(status="disabled"), **found}
    verdict = _verdict(parts)
    health = HealthOut(
        status=verdict,
        service="savannah",
        version=VERSION,
        timestamp=door.clock.now(),
        checks=parts,
    )
    return json_response(health, status=503 if verdict == "unhealthy" else 200)


@endpoint(
    "GET",
    "/health/live",
    Operation(
        id="getLiveness",
        tag=TAG,
        summary="Whether the process is alive",
        auth="none",
        answer=LifeOut,
    ),
)
async def get_liveness() -> AnyResponse:
    return json_response(LifeOut(status="alive"))


@endpoint(
    "GET",
    "/health/ready",
    Operation(
        id="getReadiness",
        tag=TAG,
        summary="Whether the process can serve",
        auth="none",
        answer=LifeOut,
        likewise=(503,),
    ),
)
async def get_readiness(door: TheDoor) -> AnyResponse:
    # Orders are taken without Redis; a balancer that asks here would turn them all away.
    parts = await door.health.parts("database")
    if parts["database"].status == "down":
        return json_response(LifeOut(status="not_ready"), status=503)
    return json_response(LifeOut(status="ready"))


@endpoint(
    "GET",
    "/metrics",
    Operation(
        id="getMetrics",
        tag=TAG,
        summary="Figures for Prometheus",
        auth="none",
        media="text/plain",
        errors=(404,),
        about="Not found for whoever comes through a trusted proxy.",
    ),
)
async def get_metrics(door: TheDoor) -> AnyResponse:
    await door.watch.measure()
    kind = door.metrics.content_type.removesuffix("; charset=utf-8")  # the framework adds it
    return Response(door.metrics.render(), media_type=kind)


_STYLE: Final = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}"
    "code{background:#8882;padding:.1em .3em}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "public, max-age=3600",
}


def _page(code: str) -> str:
    title, advice = (escape(text) for text in problems.TITLES[code])
    advice = re.sub(r"`([^`]+)`", r"<code>\1</code>", advice)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{title}</h1><p>{advice}</p>"
        f"<p>Savannah answers this with <code>code</code> <code>{escape(code)}</code>.</p>"
        "</body></html>"
    )


@endpoint(
    "GET",
    "/problems/{code:str}",
    Operation(
        id="getProblem",
        tag=TAG,
        summary="What a problem code means",
        auth="none",
        media="text/html",
        path_schemas={"code": {"type": "string", "enum": sorted(problems.TITLES)}},
        errors=(404,),
    ),
)
async def get_problem(code: FromPath[str]) -> AnyResponse:
    if code not in problems.TITLES:
        raise NotFound("problem")
    return Response(_page(code), media_type=MediaType.HTML, headers=_PAGE_HEADERS)


API_ROUTES = [get_health]
ROUTES = [get_liveness, get_readiness, get_metrics, get_problem]
