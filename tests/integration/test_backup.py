"""The backup of docs/how-to/back-up.md, taken of a storage that somebody is writing to."""

import asyncio
import re
from pathlib import Path

from savannah import Caller, in_memory
from savannah.adapters.sql import SqlStorage, migrate

PAGE = Path(__file__).parents[2] / "docs/how-to/back-up.md"
TILL = Caller.staff("user:till-1")


def printed_backup():
    """The function as the page prints it."""
    source = re.search(r"^def back_up.*?(?=^\S)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names = {}
    exec("import sqlite3\nfrom contextlib import closing\n" + source[0], names)
    return names["back_up"]


def test_a_copy_taken_while_orders_come_in_has_every_order_from_before(tmp_path):
    asyncio.run(back_up_and_restore(tmp_path))


async def back_up_and_restore(tmp_path):
    live, copy = tmp_path / "savannah.db", tmp_path / "backup.db"
    await migrate(f"sqlite:///{live}")
    storage = SqlStorage.open(f"sqlite:///{live}")
    desk = in_memory(storage=storage)
    jane = await desk.customers.create(name="Jane", phone_number="0700123456", by=TILL)

    async def take(count):
        return [
            await desk.orders.create(customer=jane.id, item="Laptop", amount="999.99", by=TILL)
            for _ in range(count)
        ]

    before = await take(20)
    busy = asyncio.create_task(take(20))
    await asyncio.to_thread(printed_backup(), str(live), str(copy))
    await busy
    await storage.close()

    restored = SqlStorage.open(f"sqlite:///{copy}")
    try:
        books = in_memory(storage=restored)
        for order in before:
            assert await books.orders.get(order.id, by=TILL) == order
    finally:
        await restored.close()
