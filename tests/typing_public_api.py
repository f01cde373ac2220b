"""What a type checker makes of the public names; checked by mypy --strict, never run."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from savannah import (
    Accepted,
    Business,
    Caller,
    Customer,
    InvalidTransition,
    MemoryGateway,
    Money,
    Order,
    Outcome,
    Page,
    PageRequest,
    PhoneNumber,
    Policy,
    Rate,
    Savannah,
    in_memory,
)
from savannah.application.ports import OrderFilter, Sms, SmsGateway


class Pigeon(SmsGateway):
    async def send(self, sms: Sms) -> Outcome:
        return Accepted(provider_id=str(sms.id))


async def till() -> None:
    app = in_memory(
        gateway=Pigeon(), business=Business(policy=Policy(phone_limit=Rate(3, timedelta(hours=1))))
    )
    assert_type(app, Savannah)
    by = Caller.staff("till-3")
    jane = await app.customers.create(name="Jane", phone_number="0700 123 456", by=by)
    assert_type(jane, Customer)
    order = await app.orders.create(customer=jane.id, item="Tea", amount="99.50", by=by)
    assert_type(order, Order)
    assert_type(order.total, Money)
    assert_type(await app.orders.list(OrderFilter(), PageRequest(limit=5), by=by), Page[Order])
    try:
        await app.orders.update_status(order.id, "delivered", by=by)
    except InvalidTransition as refused:
        assert_type(refused.allowed_transitions, tuple[str, ...])


assert_type(PhoneNumber.parse("0700123456").e164, str)
assert_type(MemoryGateway().sent, list[Sms])
