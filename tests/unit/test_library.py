"""The door for Python programs: the whole desk in memory, with parts of one's own."""

import asyncio
from datetime import timedelta

import pytest

from savannah import (
    Business,
    Caller,
    DeliveryReport,
    Locale,
    ManualClock,
    MemoryGateway,
    MemoryStorage,
    Policy,
    QuietHours,
    RefusalKind,
    RefusedSms,
    Report,
    SmsStatus,
    Status,
    in_memory,
)
from savannah.adapters.memory import SeededRandomness

TILL = Caller.staff("till-3")


def test_ten_lines_create_a_customer_and_an_order_and_send_the_text():
    async def main():
        gateway = MemoryGateway()
        app = in_memory(gateway=gateway)
        jane = await app.customers.create(name="Jane Smith", phone_number="0700 123 456", by=TILL)
        order = await app.orders.create(
            customer=jane.id, item="Laptop Computer", amount="999.99", by=TILL
        )
        assert gateway.sent == []
        assert await app.notifications.dispatch_due() == 1
        assert [sms.to for sms in gateway.sent] == ["+254700123456"]
        assert order.number in gateway.sent[0].text
        assert await app.notifications.dispatch_due() == 0
        assert (await app.orders.get(order.id, by=TILL)).sms.status is SmsStatus.SENT

    asyncio.run(main())


def test_there_are_no_accounts_in_a_program_that_knows_its_users():
    assert in_memory().identity is None


def test_two_desks_in_one_program_share_nothing():
    async def main():
        ours, theirs = in_memory(), in_memory()
        jane = await ours.customers.create(name="Jane", phone_number="0700123456", by=TILL)
        assert await theirs.customers.get_many([jane.id], by=TILL) == {}
        assert list(await ours.customers.get_many([jane.id], by=TILL)) == [jane.id]

    asyncio.run(main())


def test_storage_of_ones_own_outlives_the_desk():
    async def main():
        storage = MemoryStorage()
        jane = await in_memory(storage=storage).customers.create(
            name="Jane", phone_number="0700123456", by=TILL
        )
        assert await in_memory(storage=storage).customers.get(jane.id, by=TILL) == jane

    asyncio.run(main())


def test_the_business_decides_country_currency_and_language():
    async def main():
        gateway = MemoryGateway()
        app = in_memory(
            gateway=gateway, business=Business(region="UG", currency="UGX", locale=Locale.SW)
        )
        jane = await app.customers.create(name="Jane", phone_number="0712 345678", by=TILL)
        await app.orders.create(customer=jane.id, item="Kitabu", amount="50000", by=TILL)
        await app.notifications.dispatch_due()
        (sms,) = gateway.sent
        assert sms.to == "+256712345678"
        assert "Habari Jane" in sms.text
        assert "UGX 50000.00" in sms.text

    asyncio.run(main())


@pytest.mark.parametrize("region", ["ke", "Kenya", "K3", ""])
def test_a_region_that_no_number_could_be_read_with_is_refused_by_name(region):
    with pytest.raises(ValueError, match=r"^region: must be two capital letters"):
        Business(region=region)


def test_a_clock_of_ones_own_moves_quiet_hours_and_retries():
    async def main():
        clock, gateway = ManualClock(), MemoryGateway()  # midnight UTC is three in Nairobi
        policy = Policy(quiet_hours=QuietHours.parse("21:00-07:00"))
        app = in_memory(
            gateway=gateway,
            clock=clock,
            randomness=SeededRandomness(),
            business=Business(policy=policy),
        )
        jane = await app.customers.create(name="Jane", phone_number="0700123456", by=TILL)
        order = await app.orders.create(customer=jane.id, item="Lamp", amount=10, by=TILL)
        assert await app.notifications.dispatch_due() == 1  # the customer is at the desk, awake
        for status in (Status.PROCESSING, Status.SHIPPED):
            await app.orders.update_status(order.id, status, by=TILL)
        assert await app.notifications.dispatch_due() == 0
        clock.advance(timedelta(hours=4))
        gateway.answer(RefusedSms(kind=RefusalKind.TEMPORARY, code="http_503"))
        assert await app.notifications.dispatch_due() == 1
        assert len(gateway.sent) == 1
        clock.advance(timedelta(minutes=1))
        assert await app.notifications.dispatch_due() == 1
        assert [sms.to for sms in gateway.sent] == ["+254700123456"] * 2

    asyncio.run(main())


def test_what_is_printed_of_a_message_shows_neither_phone_nor_text():
    async def main():
        gateway = MemoryGateway()
        app = in_memory(gateway=gateway)
        jane = await app.customers.create(name="Jane", phone_number="0700123456", by=TILL)
        order = await app.orders.create(customer=jane.id, item="Lamp", amount=10, by=TILL)
        await app.notifications.dispatch_due()
        (sms,) = gateway.sent
        message = await app.notifications.get(order.sms.notification, by=TILL)
        report = DeliveryReport(
            provider_id=message.provider_id,
            report=Report.DELIVERED,
            word="Success",
            phone=sms.to,
            received_at=message.sent_at,
        )
        printed = repr([jane, order, sms, message, report])
        assert "700123456" not in printed
        assert "thank you" in sms.text
        assert "thank you" not in printed

    asyncio.run(main())


def test_callers_are_held_to_their_role_here_too():
    from savannah.domain.errors import InsufficientScope

    async def main():
        with pytest.raises(InsufficientScope):
            await in_memory().customers.create(
                name="Jane", phone_number="0700123456", by=Caller.viewer("screen")
            )

    asyncio.run(main())
