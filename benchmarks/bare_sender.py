"""The least that could send: a loop that claims, posts and marks, over raw asyncpg and httpx.

    bare_sender.py DATABASE_URL GATEWAY_URL

`benchmarks/messages.py` drives it beside `savannah worker`, on the same tables and gateway. It
claims with SKIP LOCKED, has as many requests in flight, and marks what was accepted. It asks no
rule, carries no job, knows no refusal, and writes nothing a crash could be told from.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]  # it ships none
import httpx
import uvloop

IN_FLIGHT: Final = 32
BATCH: Final = 64
CLAIM: Final = """
    UPDATE notifications SET status = 'sending', free_at = NULL, attempts = attempts + 1,
        handed_at = now(), updated_at = now()
    WHERE id IN (
        SELECT id FROM notifications WHERE free_at IS NOT NULL AND due_at <= now()
        ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING id, to_phone, text"""
MARK: Final = """
    UPDATE notifications AS n SET status = 'sent', sent_at = $2, updated_at = $2,
        provider_id = told.provider_id, cost_currency = 'KES', cost_units = told.units
    FROM unnest($1::uuid[], $3::text[], $4::bigint[]) AS told (id, provider_id, units)
    WHERE n.id = told.id"""


async def send(pool: Any, client: httpx.AsyncClient, url: str, turns: asyncio.Semaphore) -> int:
    """Claim a batch, post each text, mark them; how many there were."""
    rows = await pool.fetch(CLAIM, BATCH)

    async def post(row: Any) -> tuple[Any, str, int]:
        form = {"username": "bare", "to": row["to_phone"], "message": row["text"]}
        async with turns:
            answer = await client.post(url, data=form, headers={"apiKey": "bare"})
        told = json.loads(answer.content)["SMSMessageData"]["Recipients"][0]
        return row["id"], told["messageId"], int(float(told["cost"].split()[1]) * 10_000)

    if rows:
        ids, provider_ids, units = zip(*await asyncio.gather(*map(post, rows)), strict=True)
        await pool.execute(MARK, ids, datetime.now(UTC), provider_ids, units)
    return len(rows)


async def main(database: str, gateway: str) -> None:
    turns = asyncio.Semaphore(IN_FLIGHT)
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    url = f"{gateway}/version1/messaging"

    async def carry() -> None:
        while True:
            if not await send(pool, client, url, turns):
                await asyncio.sleep(0.05)

    async with (
        asyncpg.create_pool(database, min_size=4, max_size=4) as pool,
        httpx.AsyncClient(limits=limits, timeout=10, trust_env=False) as client,
    ):
        print("ready", flush=True)
        await asyncio.gather(*(carry() for _ in range(4)))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
