"""Fills a migrated Postgres with a shop's two years: as many orders as wanted, by SQL.

Every order has its message and its event, and a tenth as many customers buy. The skew is that of a
shop: trade grows, a few customers buy much, a few items sell much, most orders are delivered and
the open ones are new. What the program derives (numbers, folded text, digits) is derived by the
program. The same number of orders gives the same rows, but for their ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]  # it ships none

from savannah.domain.order import CROCKFORD, Reference
from savannah.domain.phone import PhoneNumber, search_digits
from savannah.domain.search import fold

ORDERS_OF_A_CUSTOMER: Final = 10
_FIRST: Final = (
    "Jane",
    "John",
    "Mary",
    "Peter",
    "Grace",
    "Zoë",
    "Amina",
    "Otieno",
    "Wanjiku",
    "Kamau",
    "Achieng",
    "Mutua",
    "Njeri",
    "Hassan",
    "Fatuma",
    "Joseph",
    "Esther",
    "Brian",
    "Kevin",
    "Mercy",
)
_LAST: Final = (
    "Smith",
    "Mwangi",
    "Omondi",
    "Kariuki",
    "Müller",
    "Hussein",
    "Wambui",
    "Kiptoo",
    "Cheruiyot",
    "Barasa",
    "Maina",
    "Ndungu",
    "Owino",
    "Juma",
    "Njoroge",
    "Abdi",
    "Muthoni",
    "Were",
    "Kilonzo",
    "Chebet",
)
_KIND: Final = (
    "Laptop",
    "Phone",
    "Desk",
    "Chair",
    "Lamp",
    "Kettle",
    "Radio",
    "Bicycle",
    "Charger",
    "Mattress",
    "Blender",
    "Torch",
    "Backpack",
    "Printer",
    "Router",
    "Speaker",
    "Freezer",
    "Cooker",
    "Tent",
    "Camera",
)
_MAKE: Final = (
    "Computer",
    "Stand",
    "Set",
    "Classic",
    "Pro",
    "Mini",
    "Deluxe",
    "Bora",
    "Safari",
    "Simba",
    "Twiga",
    "Nairobi",
    "Solar",
    "Travel",
    "Office",
    "Garden",
    "Kitchen",
    "Junior",
    "Heavy",
    "Light",
)
_NOTES: Final = (
    "Urgent delivery required",
    "Call before delivery",
    "Leave with the guard",
    "Gift, please wrap",
    "Second floor, blue door",
)

# Ids as version 7 makes them: the time in milliseconds, then randomness.
_FUNCTIONS: Final = """
CREATE FUNCTION pg_temp.uuid_at(moment timestamptz, seed text) RETURNS uuid LANGUAGE sql AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0')
        || '7' || substr(md5(seed), 1, 3) || '8' || substr(md5(seed), 4, 15))::uuid $$;
"""
_ORDERS: Final = """
CREATE TEMP TABLE shop AS
WITH drawn AS (
    SELECT i, random() AS r1, random() AS r2, random() AS r3, random() AS r4, random() AS r5,
        random() AS r6, random() AS r7, random() AS r8,
        -- Newer months have more orders.
        $1::timestamptz - interval '730 days' * (1 - sqrt((i - random()) / $2)) AS created_at
    FROM generate_series(1, $2::int) AS i
), dated AS (
    SELECT *, $1::timestamptz - created_at AS age,
        (random() * 60 + 2) * interval '1 hour' AS to_ship,
        (random() * 60 + 2) * interval '1 hour' AS to_deliver
    FROM drawn
), decided AS (
    SELECT *, CASE
        WHEN r1 < 0.07 THEN 'cancelled'
        WHEN age < to_ship / 2 THEN 'pending'
        WHEN age < to_ship OR r1 > 0.998 THEN 'processing'
        WHEN age < to_ship + to_deliver OR r1 > 0.995 THEN 'shipped'
        ELSE 'delivered' END AS status
    FROM dated
)
SELECT i, created_at, status, to_ship, to_deliver,
    pg_temp.uuid_at(created_at, 'o' || i || $2) AS id,
    pg_temp.uuid_at(created_at, 'n' || i || $2) AS notification_id,
    least(($2::int / 10) - 1, floor(($2::int / 10) * r2 ^ 3))::int AS customer,
    floor(400 * r3 ^ 3)::int AS item,
    CASE WHEN r4 < 0.25 THEN floor(5 * r4 / 0.25)::int END AS note,
    CASE WHEN r5 < 0.90 THEN 'KES' WHEN r5 < 0.95 THEN 'UGX' WHEN r5 < 0.98 THEN 'TZS'
        WHEN r5 < 0.995 THEN 'USD' ELSE 'RWF' END AS currency,
    (50 + floor(exp(r6 * 9)))::bigint * 100 AS price_minor,
    1 + floor(4 * r7 ^ 4)::int AS quantity,
    CASE WHEN r8 < 0.92 THEN 'delivered' WHEN r8 < 0.95 THEN 'failed' WHEN r8 < 0.97 THEN 'skipped'
        WHEN r8 < 0.99 THEN 'sent' WHEN r8 < 0.995 THEN 'unknown' ELSE 'dead' END AS sms,
    r8
FROM decided
"""
_FILL: Final = (
    """
INSERT INTO orders (id, number, customer_id, item, price_minor, currency, quantity, total_minor,
    status, notes, metadata, cancel_reason, cancelled_at, cancelled_by, created_at, updated_at,
    status_changed_at, shipped_at, delivered_at, deleted_at, version, notification_id,
    number_compact, item_key, item_folded, notes_folded)
SELECT s.id, n.number, c.id, t.item, price_minor, currency, quantity, price_minor * quantity,
    status, m.note, '{}', cancel, CASE WHEN cancel IS NOT NULL THEN changed END,
    CASE WHEN cancel IS NOT NULL THEN 'user:till' END, s.created_at, changed, changed,
    CASE WHEN status IN ('shipped', 'delivered') THEN s.created_at + to_ship END,
    CASE WHEN status = 'delivered' THEN s.created_at + to_ship + to_deliver END,
    CASE WHEN status = 'cancelled' AND r8 < 0.1 THEN changed END, 1, notification_id,
    n.compact, t.key, t.folded, m.folded
FROM (SELECT *, CASE WHEN status = 'cancelled' THEN 'other' END AS cancel,
        created_at + CASE status WHEN 'pending' THEN interval '0' WHEN 'processing' THEN to_ship / 2
            WHEN 'delivered' THEN to_ship + to_deliver ELSE to_ship END AS changed
    FROM shop) AS s
JOIN number n USING (i) JOIN buyer c ON c.place = s.customer
JOIN item t ON t.place = s.item LEFT JOIN note m ON m.place = s.note
WHERE i <= $1::int ORDER BY i
""",
    """
INSERT INTO notifications (id, order_id, customer_id, event, dedupe_key, to_phone, locale, text,
    encoding, segments, status, skip_reason, rules, attempts, due_at, free_at, handed_at, sent_at,
    delivered_at, provider_id, cost_currency, cost_units, created_at, updated_at)
SELECT notification_id, s.id, c.id, 'order_created', s.id || ':order_created:1', c.phone, 'en',
    'Hi, we have your order: ' || t.item, 'gsm7', 1, state,
    CASE WHEN state = 'skipped' THEN 'opted_out' END, '[]', (state <> 'skipped')::int,
    s.created_at, CASE WHEN state IN ('queued', 'deferred') THEN s.created_at END,
    handed, handed, CASE WHEN state = 'delivered' THEN handed + interval '4 seconds' END,
    CASE WHEN state IN ('sent', 'delivered', 'failed') THEN 'ATXid_' || md5(s.id::text) END,
    CASE WHEN state IN ('sent', 'delivered') THEN 'KES' END,
    CASE WHEN state IN ('sent', 'delivered') THEN 8000 END, s.created_at, s.created_at
FROM (SELECT *, CASE WHEN state IN ('queued', 'skipped') THEN NULL
        ELSE created_at + interval '2 seconds' END AS handed
    FROM (SELECT *, CASE WHEN i > $1::int - 20 THEN 'queued' ELSE sms END AS state
        FROM shop) AS stated
) AS s
JOIN buyer c ON c.place = s.customer JOIN item t ON t.place = s.item ORDER BY i
""",
    """
INSERT INTO events (id, at, actor, action, subject, subject_id, version, data)
SELECT pg_temp.uuid_at(created_at, 'e' || i || $1::int), created_at, 'user:till', 'order.created',
    'order', id, 1, '{"status": "pending", "sms": "queued"}'
FROM shop ORDER BY i
""",
)


async def fill(database: str, orders: int, *, until: datetime) -> None:
    """Orders up to that moment, into a database with the current schema and nothing in it."""
    parts = urlsplit(database)
    connection = await asyncpg.connect(parts._replace(scheme="postgresql").geturl())
    try:
        async with connection.transaction():
            dropped = await _without_indexes(connection)
            await connection.execute("SELECT setseed(0.25)")
            await connection.execute(_FUNCTIONS)
            await _add_customers(connection, orders // ORDERS_OF_A_CUSTOMER, until)
            await _add_words(connection, orders)
            await connection.execute(_ORDERS, until, orders)
            for statement in _FILL:
                await connection.execute(statement, orders)
            await connection.execute("DROP TABLE shop, number, buyer, item, note")
        for statement in dropped:  # they are made faster afterwards
            await connection.execute(statement)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


async def _without_indexes(connection: Any) -> list[str]:
    """Drop the indexes that enforce nothing; how to make them again."""
    rows = await connection.fetch(
        "SELECT indexrelid::regclass AS name, pg_get_indexdef(indexrelid) AS definition"
        " FROM pg_index WHERE NOT indisunique AND indrelid IN"
        " ('orders'::regclass, 'customers'::regclass, 'notifications'::regclass,"
        " 'events'::regclass)"
    )
    for row in rows:
        await connection.execute(f"DROP INDEX {row['name']}")
    return [row["definition"] for row in rows]


async def _add_customers(connection: Any, number: int, until: datetime) -> None:
    await connection.execute(
        "CREATE TEMP TABLE person (place int, name text, folded text, email text, phone text,"
        " digits text, code text)"
    )
    await connection.copy_records_to_table("person", records=_people(number))
    await connection.execute(
        """
CREATE TEMP TABLE buyer AS
SELECT *, pg_temp.uuid_at($1, 'c' || place || $2::int) AS id FROM (
    SELECT *, $1::timestamptz - interval '730 days' * (1.01 - sqrt((place + 0.5) / $2)) AS since
    FROM person) AS dated
""",
        until,
        number,
    )
    await connection.execute(
        """
INSERT INTO customers (id, code, name, email, phone, locale, sms_opt_out, reachability, metadata,
    created_at, updated_at, archived_at, version, email_key, name_folded, email_folded, code_folded,
    phone_digits)
SELECT id, code, name, email, phone, CASE WHEN place % 4 = 0 THEN 'sw' ELSE 'en' END,
    place % 50 = 7, CASE WHEN place % 100 = 9 THEN 'blocked' WHEN place % 3 = 0 THEN 'unknown'
        ELSE 'reachable' END, '{}', since, since, CASE WHEN place % 97 = 5 THEN since END, 1,
    email, folded, email, lower(code), digits
FROM buyer ORDER BY place
"""
    )
    await connection.execute("DROP TABLE person")


def _people(number: int) -> Iterator[tuple[int, str, str, str, str, str, str]]:
    for place in range(number):
        name = f"{_FIRST[place % 20]} {_LAST[place // 20 % 20]}"
        folded, phone = fold(name), PhoneNumber(f"+2547{place:08d}")
        email = f"{folded.replace(' ', '.')}.{place}@example.com"
        code = f"CUST-{_symbols(place)}"
        yield place, name, folded, email, phone.e164, search_digits(phone), code


async def _add_words(connection: Any, orders: int) -> None:
    """Order numbers, items and notes, with what the program makes of them."""
    await connection.execute(
        "CREATE TEMP TABLE number (i int PRIMARY KEY, number text, compact text);"
        "CREATE TEMP TABLE item (place int, item text, key text, folded text);"
        "CREATE TEMP TABLE note (place int, note text, folded text)"
    )
    numbers = (Reference.make(_symbols(i)) for i in range(1, orders + 1))
    await connection.copy_records_to_table(
        "number", records=((i, each, Reference.compact(each)) for i, each in enumerate(numbers, 1))
    )
    items = [f"{kind} {make}" for kind in _KIND for make in _MAKE]
    await connection.copy_records_to_table(
        "item", records=[(i, each, each.casefold(), fold(each)) for i, each in enumerate(items)]
    )
    await connection.copy_records_to_table(
        "note", records=[(i, each, fold(each)) for i, each in enumerate(_NOTES)]
    )
    await connection.execute("ANALYZE number")


def _symbols(place: int) -> str:
    """Six symbols that look drawn, different for each place."""
    mixed = place * 387_420_489 % 32**6
    return "".join(CROCKFORD[mixed >> 5 * digit & 31] for digit in range(6))
