"""The orders port: what is kept, the picture of the newest message, filters, pages."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from savannah.application.ports import OrderFilter
from savannah.domain.errors import BadQuery, NotFound, OrderNumberTaken
from savannah.domain.money import AMOUNT_MAX_MINOR, TOTAL_MAX_MINOR, Money
from savannah.domain.notification import SmsStatus
from savannah.domain.order import Cancellation, CancelReason, SmsSummary, Status
from savannah.domain.paging import Ordering, PageRequest
from savannah.domain.search import SearchQuery
from savannah.domain.sms_text import SmsEvent


async def test_an_order_is_kept_as_given(storage, make, keep):
    jane = make.customer()
    plain = make.order(jane)
    at = plain.created_at
    full = make.order(
        jane,
        item="Ein größerer Tisch 王",
        price=AMOUNT_MAX_MINOR,
        currency="USD",
        quantity=100,
        status=Status.CANCELLED,
        notes=None,
        metadata={"b": "1", "a": "2"},
        cancellation=Cancellation(
            reason=CancelReason.LOST, note="gone\nfor good", cancelled_at=at, cancelled_by="me"
        ),
        shipped_at=at + timedelta(microseconds=3),
        delivered_at=at + timedelta(days=3),
        version=9,
    )
    assert full.total.minor <= TOTAL_MAX_MINOR
    await keep(jane, plain, full)
    async with storage(reading=True) as uow:
        assert await uow.orders.get(plain.id) == plain
        assert await uow.orders.get(full.id) == full
        assert list((await uow.orders.get(full.id)).metadata) == ["b", "a"]


async def test_a_copy_whose_metadata_is_changed_changes_nothing_stored(storage, make, keep):
    jane = make.customer()
    order = make.order(jane, metadata={"colour": "red"})
    await keep(jane, order)
    order.metadata["colour"] = "blue"
    first = PageRequest(limit=1)
    query = SearchQuery.parse("Laptop")
    for _ in range(2):
        async with storage(reading=True) as uow:
            (listed,) = (await uow.orders.list(OrderFilter(), first)).items
            (found,) = (await uow.orders.search(query, OrderFilter(), first)).items
            for read in (await uow.orders.get(order.id), listed, found):
                assert read.metadata == {"colour": "red"}
                read.metadata["colour"] = "green"


async def test_an_ordering_that_there_is_none_of_is_refused_by_name(storage):
    page = PageRequest(ordering=Ordering("colour"))
    async with storage(reading=True) as uow:
        with pytest.raises(BadQuery, match="created_at, updated_at, status_changed_at") as refused:
            await uow.orders.list(OrderFilter(), page)
    assert refused.value.parameter == "ordering"


async def test_what_does_not_exist_is_not_found(storage, make):
    async with storage(reading=True) as uow:
        with pytest.raises(NotFound):
            await uow.orders.get(make.id())


async def test_a_saved_order_replaces_the_former_one(storage, make, keep):
    jane = make.customer()
    order = make.order(jane)
    await keep(jane, order)
    after = replace(
        order,
        item="Desk",
        price=Money(5, "KES"),
        quantity=2,
        notes="new",
        status=Status.CANCELLED,
        cancellation=Cancellation(
            reason=CancelReason.OTHER, note=None, cancelled_at=order.updated_at, cancelled_by="x"
        ),
        version=2,
    )
    async with storage() as uow:
        await uow.orders.save(after)
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.orders.get(order.id) == after
        found = await uow.orders.list(OrderFilter(max_amount=10), PageRequest())
        assert found.items == (after,)


async def test_two_orders_cannot_share_a_number(storage, make, keep):
    jane = make.customer()
    order = make.order(jane)
    await keep(jane, order)
    with pytest.raises(OrderNumberTaken):
        await keep(make.order(jane, number=order.number))
    async with storage() as uow:
        await uow.orders.save(replace(order, deleted_at=order.updated_at))
        await uow.commit()
    with pytest.raises(OrderNumberTaken):
        await keep(make.order(jane, number=order.number))


async def test_an_order_carries_the_picture_of_its_newest_message(storage, make, keep):
    jane = make.customer()
    order, silent = make.order(jane), make.order(jane)
    first = make.message(order, status=SmsStatus.FAILED)
    newest = make.message(
        order,
        event=SmsEvent.ORDER_SHIPPED,
        status=SmsStatus.DELIVERED,
        sent_at=order.created_at + timedelta(minutes=1),
        delivered_at=order.created_at + timedelta(minutes=2),
    )
    await keep(jane, order, silent, first, newest)
    picture = SmsSummary(
        event=SmsEvent.ORDER_SHIPPED,
        status="delivered",
        notification=newest.id,
        sent_at=newest.sent_at,
        delivered_at=newest.delivered_at,
    )
    shown = replace(order, sms=picture)
    async with storage(reading=True) as uow:
        assert await uow.orders.get(order.id) == shown
        assert (await uow.orders.get(silent.id)).sms is None
        by_age = PageRequest(ordering=Ordering("created_at"))
        assert (await uow.orders.list(OrderFilter(), by_age)).items == (shown, silent)
        query = SearchQuery.parse(order.number)
        assert (await uow.orders.search(query, OrderFilter(), PageRequest())).items == (shown,)
    async with storage() as uow:  # saving an older message, or the order, changes no picture
        await uow.notifications.save(replace(first, status=SmsStatus.SENT))
        await uow.orders.save(replace(order, notes="x"))
        await uow.commit()
    async with storage(reading=True) as uow:
        assert (await uow.orders.get(order.id)).sms == picture
    async with storage() as uow:
        await uow.notifications.save(replace(newest, status=SmsStatus.UNKNOWN, delivered_at=None))
        assert (await uow.orders.get(order.id)).sms.status == "unknown"
        await uow.commit()
    async with storage(reading=True) as uow:
        assert (await uow.orders.get(order.id)).sms.delivered_at is None


async def test_a_deleted_order_is_invisible_everywhere(storage, make, keep):
    jane = make.customer()
    order = make.order(jane, item="Secret")
    await keep(jane, order, make.message(order))
    async with storage() as uow:
        await uow.orders.save(replace(order, deleted_at=order.updated_at))
        await uow.commit()
    async with storage(reading=True) as uow:
        with pytest.raises(NotFound):
            await uow.orders.get(order.id)
        page = await uow.orders.list(OrderFilter(customer=[jane.id]), PageRequest())
        assert (page.items, page.count) == ((), 0)
        found = await uow.orders.search(SearchQuery.parse("secret"), OrderFilter(), PageRequest())
        assert (found.items, found.count) == ((), 0)
        assert await uow.customers.open_orders(jane.id) == 0
        assert list((await uow.reports.customer(jane.id)).by_status) == []


def desk(make):
    """Four orders of two customers; the items say what the filters below are about."""
    jane, john = make.customer(), make.customer()
    a = make.order(jane, item="a", price=100, quantity=3)
    b = make.order(jane, item="b", price=500, status=Status.SHIPPED, currency="USD")
    c = make.order(john, item="c", price=301, status=Status.CANCELLED)
    d = make.order(john, item="d", price=299)
    b = replace(b, updated_at=b.updated_at + timedelta(days=1))
    messages = [
        make.message(a, status=SmsStatus.FAILED),
        make.message(a, status=SmsStatus.QUEUED),
        make.message(b, status=SmsStatus.FAILED),
        make.message(c, status=SmsStatus.SKIPPED),
    ]
    return jane, john, a, b, c, d, *messages


def filters(rows):
    jane, john, _, b, c, d, *_ = rows
    return {
        "": OrderFilter(),
        "status": OrderFilter(status=[Status.PENDING]),
        "statuses": OrderFilter(status=[Status.SHIPPED, Status.CANCELLED]),
        "no status": OrderFilter(status=[Status.DELIVERED]),
        "customer": OrderFilter(customer=[jane.id]),
        "customers": OrderFilter(customer=[jane.id, john.id]),
        "currency": OrderFilter(currency=["USD"]),
        "currencies": OrderFilter(currency=["USD", "KES"]),
        "min": OrderFilter(min_amount=300),
        "max": OrderFilter(max_amount=300),
        "exactly": OrderFilter(min_amount=300, max_amount=300),
        "sms": OrderFilter(sms_status=[SmsStatus.FAILED]),
        "smses": OrderFilter(sms_status=[SmsStatus.QUEUED, SmsStatus.SKIPPED]),
        "created from": OrderFilter(created_from=b.created_at),
        "created before": OrderFilter(created_before=b.created_at),
        "created between": OrderFilter(created_from=b.created_at, created_before=d.created_at),
        "updated since": OrderFilter(updated_since=c.updated_at),
        "and": OrderFilter(customer=[john.id], status=[Status.PENDING], max_amount=299),
        "and not": OrderFilter(customer=[jane.id], status=[Status.CANCELLED]),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "abcd"),
        ("status", "ad"),
        ("statuses", "bc"),
        ("no status", ""),
        ("customer", "ab"),
        ("customers", "abcd"),
        ("currency", "b"),
        ("currencies", "abcd"),
        ("min", "abc"),
        ("max", "ad"),
        ("exactly", "a"),
        ("sms", "b"),
        ("smses", "ac"),
        ("created from", "bcd"),
        ("created before", "a"),
        ("created between", "bc"),
        ("updated since", "bcd"),
        ("and", "d"),
        ("and not", ""),
    ],
)
async def test_a_filter_finds_exactly_its_orders(storage, make, keep, name, expected):
    rows = desk(make)
    await keep(*rows)
    where = filters(rows)[name]
    async with storage(reading=True) as uow:
        page = await uow.orders.list(where, PageRequest(ordering=Ordering("created_at")))
    assert "".join(order.item for order in page.items) == expected
    assert page.count == len(expected)


@pytest.mark.parametrize(
    "ordering",
    [
        sign + name
        for name in ("created_at", "updated_at", "status_changed_at", "total_amount")
        for sign in ("", "-")
    ]
    + ["order_number", "-order_number"],
)
async def test_pages_show_each_order_once_and_in_order(storage, make, keep, walk, ordering):
    by = Ordering.parse(ordering)
    jane = make.customer()
    at = jane.created_at
    rows = [
        make.order(jane, at=at + timedelta(seconds=shift), price=price, quantity=quantity)
        for shift, price, quantity in [(0, 4, 1), (0, 2, 2), (2, 1, 4), (1, 50, 1), (1, 1, 9)]
    ]
    rows[1] = replace(rows[1], updated_at=at + timedelta(hours=1))
    rows[2] = replace(rows[2], status_changed_at=at + timedelta(hours=2))
    await keep(jane, *rows)
    values = {"total_amount": lambda row: row.total.minor, "order_number": lambda row: row.number}

    def key(row):
        value = values.get(by.name, lambda row: getattr(row, by.name))
        return value(row), row.id

    async def fetch(request):
        async with storage(reading=True) as uow:
            return await uow.orders.list(OrderFilter(), request)

    await walk(fetch, sorted(rows, key=key, reverse=by.descending), ordering=by)


async def test_pages_keep_to_their_filter(storage, make, keep, walk):
    jane, john = make.customer(), make.customer()
    rows = [make.order(person) for _ in range(4) for person in (jane, john)]
    await keep(jane, john, *rows)

    async def fetch(request):
        async with storage(reading=True) as uow:
            return await uow.orders.list(OrderFilter(customer=[john.id]), request)

    await walk(fetch, [row for row in reversed(rows) if row.customer_id == john.id])
