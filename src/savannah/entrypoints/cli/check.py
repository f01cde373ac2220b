"""`savannah check`: what the settings say, and what of it answers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from savannah.entrypoints.cli.console import DONE, FAILED, print_table, settings_and_logs

if TYPE_CHECKING:
    from savannah.adapters.sql import SqlStorage
    from savannah.entrypoints.settings import Settings

_GATEWAY_PATIENCE_S: Final = 15.0
_NO_TRIGRAMS: Final = (
    "search",
    "note",
    "reads whole tables: let the role install pg_trgm, and run `savannah migrate` again",
)


def check(options: argparse.Namespace) -> int:
    import asyncio

    from savannah.entrypoints.production import doubts, unsafe
    from savannah.entrypoints.settings import strangers

    settings = settings_and_logs()
    rows = [("settings", "ok", "development" if settings.debug else "production")]
    rows += [("settings", "note", remark) for remark in settings.remarks()]
    rows += [
        ("settings", "note", f"{name} in .env is not read" + (f": {meant}?" if meant else ""))
        for name, meant in strangers()
    ]
    wrong = settings.sending_problems() + settings.missing_extras()
    rows += [("settings", "FAILED", f"{name} {rule}") for name, rule in wrong]
    if options.deploy:
        refused = unsafe(settings)
        rows += [("deploy", "FAILED", f"{name} {rule}") for name, rule in refused]
        if not refused:
            rows.append(("deploy", "ok", "no unsafe setting"))
        rows += [("deploy", "note", doubt) for doubt in doubts(settings)]
    rows += asyncio.run(_reached(settings.prepared()))
    print_table([("PART", "STATE", "DETAIL"), *rows])
    return FAILED if any(state == "FAILED" for _, state, _ in rows) else DONE


async def _reached(settings: Settings) -> list[tuple[str, str, str]]:
    """What answers of the things this installation depends on."""
    import asyncio

    from savannah.adapters.sql import SqlStorage, schema_is_current
    from savannah.domain.errors import Unavailable
    from savannah.entrypoints.container import africas_talking, saq_queue

    rows: list[tuple[str, str, str]] = []
    storage = SqlStorage.open(settings.database_url, pool_size=1)
    try:
        await storage.ping()
        rows.append(("database", "ok", "SQLite" if settings.embedded else "Postgres"))
        if await schema_is_current(storage):
            rows += [("schema", "ok", "up to date"), *await _searches(storage, settings)]
        elif settings.embedded:
            rows.append(("schema", "note", "`savannah serve` brings it up to date"))
        else:
            rows.append(("schema", "FAILED", "run `savannah migrate`"))
    except Unavailable as error:
        rows.append(("database", "FAILED", error.detail))
    finally:
        await storage.close()
    if settings.redis_url is None:
        rows.append(("redis", "disabled", "jobs are carried in-process"))
    else:
        queue = saq_queue(settings.redis_url)
        try:
            await queue.ping()
            rows.append(("redis", "ok", "jobs and limits" if settings.has_workers else "limits"))
        except Unavailable as error:
            rows.append(("redis", "FAILED", error.detail))
        finally:
            await queue.close()
    rows += await _issuers(settings)
    rows.append(("callbacks", "note", f"{_callbacks(settings)}/delivery/"))
    if settings.gateway.base_url is None:
        if settings.embedded:
            rows.append(("gateway", "note", "simulated; it runs with `savannah serve`"))
        return rows
    gateway = africas_talking(settings.gateway, settings.gateway.base_url)
    try:
        async with asyncio.timeout(_GATEWAY_PATIENCE_S):
            rows.append(("gateway", "ok", f"balance {await gateway.balance()}"))
    except Unavailable as error:
        rows.append(("gateway", "FAILED", error.detail))
    except TimeoutError:
        rows.append(("gateway", "FAILED", "no answer in time"))
    finally:
        await gateway.aclose()
    return rows


async def _searches(storage: SqlStorage, settings: Settings) -> list[tuple[str, str, str]]:
    from savannah.adapters.sql import searches_are_indexed

    indexed = settings.embedded or await searches_are_indexed(storage)
    return [] if indexed else [_NO_TRIGRAMS]


async def _issuers(settings: Settings) -> list[tuple[str, str, str]]:
    from savannah.adapters.system import SystemClock
    from savannah.entrypoints.container import trusted_issuers

    issuers = trusted_issuers(settings, SystemClock())
    if issuers is None:
        return []
    try:
        found = await issuers.reach()
    finally:
        await issuers.aclose()
    return [
        ("issuer", "FAILED", f"{issuer}: {trouble}") if trouble else ("issuer", "ok", issuer)
        for issuer, trouble in found.items()
    ]


def _callbacks(settings: Settings) -> str:
    from savannah.entrypoints.serve import callback_root

    return callback_root(settings, settings.public_url or "http://127.0.0.1:8000")
