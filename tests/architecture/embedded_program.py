"""A program that embeds the core; run with the bare wheel, where no extra is installed."""

from __future__ import annotations

import asyncio
import sys

from savannah import Caller, MemoryGateway, in_memory


async def main() -> None:
    gateway, till = MemoryGateway(), Caller.staff("till-3")
    app = in_memory(gateway=gateway)
    jane = await app.customers.create(name="Jane Smith", phone_number="0700 123 456", by=till)
    await app.orders.create(customer=jane.id, item="Laptop Computer", amount="999.99", by=till)
    await app.notifications.dispatch_due()
    assert [sms.to for sms in gateway.sent] == ["+254700123456"]
    strangers = {"litestar", "sqlalchemy", "msgspec", "httpx", "hypothesis"} & set(sys.modules)
    assert not strangers, strangers


asyncio.run(main())
