"""The least that could answer: a bare ASGI handler over raw asyncpg, on Savannah's own tables.

`benchmarks/rest.py` drives it beside Savannah, on the same loop and parser. It checks no token,
validates nothing and knows no rule; it only leaves the same rows behind and shows the same orders.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg  # type: ignore[import-untyped]  # it ships none
import msgspec
import uvicorn

_SHOWN: Final = """
    SELECT o.id, o.number, o.customer_id, o.item, o.price_minor, o.quantity, o.total_minor,
        o.currency, o.status, o.notes, o.metadata, o.created_at, o.updated_at, o.status_changed_at,
        o.version, n.event AS sms_event, n.status AS sms_status, n.id AS sms_id, n.sent_at
    FROM orders o LEFT JOIN notifications n ON n.id = o.notification_id
    WHERE o.deleted_at IS NULL"""
GET: Final = f"{_SHOWN} AND o.id = $1"
PAGE: Final = f"{_SHOWN} ORDER BY o.created_at DESC, o.id DESC LIMIT 26"
COUNT: Final = """SELECT count(*) FROM
    (SELECT id FROM orders WHERE deleted_at IS NULL LIMIT 10001) AS counted"""
CUSTOMER: Final = "SELECT id, name, phone FROM customers WHERE id = $1"
LOCKED_CUSTOMER: Final = f"{CUSTOMER} FOR SHARE"
SUMS: Final = """
    SELECT currency, status, count(*) AS orders, sum(total_minor)::bigint AS total_minor,
        sum(quantity)::bigint AS units, max(total_minor) AS largest_minor,
        min(created_at) AS first_at, max(created_at) AS last_at
    FROM orders WHERE customer_id = $1 AND deleted_at IS NULL GROUP BY currency, status"""
SMS_SUMS: Final = """
    SELECT n.status, n.cost_currency, count(*) AS messages, sum(n.segments)::bigint AS segments,
        coalesce(sum(n.cost_units), 0)::bigint AS units
    FROM notifications n JOIN orders o ON o.id = n.order_id
    WHERE o.customer_id = $1 AND o.deleted_at IS NULL GROUP BY n.status, n.cost_currency"""
ADD_ORDER: Final = """
    INSERT INTO orders (id, number, customer_id, item, price_minor, currency, quantity, total_minor,
        status, metadata, created_at, updated_at, status_changed_at, version, notification_id,
        number_compact, item_key, item_folded)
    VALUES ($1, $2, $3, $4, $5, 'KES', $6, $7, 'pending', '{}', $8, $8, $8, 1, $9, $10, $11, $11)"""
ADD_MESSAGE: Final = """
    INSERT INTO notifications (id, order_id, customer_id, event, dedupe_key, to_phone, locale, text,
        encoding, segments, status, rules, attempts, due_at, free_at, created_at, updated_at)
    VALUES ($1, $2, $3, 'order_created', $4, $5, 'en', $6, 'gsm7', 1, 'queued', '[]', 0, $7, $7, $7,
        $7)"""
ADD_EVENT: Final = """
    INSERT INTO events (id, at, actor, action, subject, subject_id, version, data)
    VALUES ($1, $2, 'user:bare', 'order.created', 'order', $3, 1, $4)"""
SYMBOLS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

Answer = tuple[int, object]


def shown(row: Any) -> dict[str, object]:
    """An order as Savannah shows it."""
    status = row["status"]
    return {
        "id": row["id"],
        "order_number": row["number"],
        "customer": row["customer_id"],
        "item": row["item"],
        "amount": f"{row['price_minor'] // 100}.{row['price_minor'] % 100:02}",
        "quantity": row["quantity"],
        "total_amount": f"{row['total_minor'] // 100}.{row['total_minor'] % 100:02}",
        "currency": row["currency"],
        "status": status,
        "allowed_transitions": ["processing", "cancelled"],
        "can_be_cancelled": status == "pending",
        "notes": row["notes"],
        "cancellation": None,
        "metadata": json.loads(row["metadata"]),
        "sms": {
            "event": row["sms_event"],
            "status": row["sms_status"],
            "notification": row["sms_id"],
            "sent_at": row["sent_at"],
            "delivered_at": None,
        },
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "status_changed_at": row["status_changed_at"],
        "version": row["version"],
    }


class Bare:
    """The four handlers."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self._pool = await asyncpg.create_pool(
                self._url, min_size=10, max_size=10, server_settings={"jit": "off"}
            )
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._pool.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        status, answer = await self._answer(scope, receive)
        body = msgspec.json.encode(answer)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Any, receive: Any) -> Answer:
        parts = scope["path"].strip("/").split("/")
        if scope["method"] == "POST":
            return await self._create(msgspec.json.decode((await receive())["body"]))
        if parts[1] == "customers":
            return await self._stats(UUID(parts[2]))
        return await (self._get(UUID(parts[2])) if len(parts) > 2 else self._list())

    async def _create(self, body: Any) -> Answer:
        id_, message, now = uuid4(), uuid4(), datetime.now(UTC)
        symbols = "".join(random.choices(SYMBOLS, k=7))
        customer_id = UUID(body["customer"])
        price = round(float(body["amount"]) * 100)
        quantity = body.get("quantity", 1)
        number = f"BARE-{symbols}"
        async with self._pool.acquire() as connection, connection.transaction():
            customer = await connection.fetchrow(LOCKED_CUSTOMER, customer_id)
            text = f"Hi {customer['name']}, we have your order {number}: {body['item']}."
            await connection.execute(
                ADD_ORDER,
                id_,
                number,
                customer_id,
                body["item"],
                price,
                quantity,
                price * quantity,
                now,
                message,
                symbols,
                body["item"].casefold(),
            )
            await connection.execute(
                ADD_MESSAGE,
                message,
                id_,
                customer_id,
                f"{id_}:order_created:1",
                customer["phone"],
                text,
                now,
            )
            data = json.dumps({"status": "pending", "sms": "queued"})
            await connection.execute(ADD_EVENT, uuid4(), now, id_, data)
        row = {
            "id": id_,
            "number": number,
            "customer_id": customer_id,
            "item": body["item"],
            "price_minor": price,
            "quantity": quantity,
            "total_minor": price * quantity,
            "currency": "KES",
            "status": "pending",
            "notes": None,
            "metadata": "{}",
            "sms_event": "order_created",
            "sms_status": "queued",
            "sms_id": message,
            "sent_at": None,
            "created_at": now,
            "updated_at": now,
            "status_changed_at": now,
            "version": 1,
        }
        return 201, shown(row)

    async def _get(self, order_id: UUID) -> Answer:
        row = await self._pool.fetchrow(GET, order_id)
        return (404, None) if row is None else (200, shown(row))

    async def _list(self) -> Answer:
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(PAGE)
            count = await connection.fetchval(COUNT)
        results = [shown(row) for row in rows[:25]]
        return 200, {"count": count, "next": str(rows[-1]["id"]), "results": results}

    async def _stats(self, customer_id: UUID) -> Answer:
        async with self._pool.acquire() as connection:
            if await connection.fetchrow(CUSTOMER, customer_id) is None:
                return 404, None
            sums = await connection.fetch(SUMS, customer_id)
            messages = await connection.fetch(SMS_SUMS, customer_id)
        live = sum(row["total_minor"] for row in sums if row["status"] != "cancelled")
        return 200, {
            "customer": customer_id,
            "total_orders": sum(row["orders"] for row in sums),
            "total_spent": f"{live // 100}.{live % 100:02}",
            "orders_by_status": {row["status"]: row["orders"] for row in sums},
            "first_order_at": min((row["first_at"] for row in sums), default=None),
            "last_order_at": max((row["last_at"] for row in sums), default=None),
            "sms": {row["status"]: row["messages"] for row in messages},
        }


def main() -> None:
    """`bare.py DATABASE_URL PORT [PROCESSES]`, until a signal comes."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[2])), backlog=2048)
    children: list[int] = []
    for _ in range(int(sys.argv[3]) - 1 if len(sys.argv) > 3 else 0):
        child = os.fork()
        if not child:
            children = []
            break
        children.append(child)
    config = uvicorn.Config(
        Bare(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        for child in children:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main()
