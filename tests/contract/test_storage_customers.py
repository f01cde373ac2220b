"""The customers port: what is kept, what is unique, filters, orderings, pages."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from savannah.application.ports import CustomerFilter
from savannah.domain.customer import Reachability
from savannah.domain.errors import BadQuery, CodeTaken, EmailTaken, NotFound
from savannah.domain.order import Status
from savannah.domain.paging import Ordering, PageRequest
from savannah.domain.phone import PhoneNumber
from savannah.domain.search import SearchQuery
from savannah.domain.sms_text import Locale

EVERYBODY = CustomerFilter(archived=None)


async def listed(storage, where, **request):
    async with storage(reading=True) as uow:
        return (await uow.customers.list(where, PageRequest(**request))).items


@pytest.fixture
def change(storage):
    """Save customers in one committed unit of work; a write may wait for the commit."""

    async def change(*customers):
        async with storage() as uow:
            for customer in customers:
                await uow.customers.save(customer)
            await uow.commit()

    return change


async def test_a_customer_is_kept_as_given(storage, make, keep):
    full = make.customer(
        name="Zoë 王 O'Neil%_\\",
        email="Jane@Example.com",
        locale=Locale.SW,
        sms_opt_out=True,
        reachability=Reachability.BLOCKED,
        notes="first line\n\tsecond line",
        metadata={"z": "1", "a": "", "ü": "ß"},
        archived_at=None,
        version=7,
    )
    full = replace(full, updated_at=full.created_at + timedelta(microseconds=1))
    at = full.updated_at
    gone = make.customer(name=None, phone=None, notes=None, archived_at=at, erased_at=at)
    await keep(full, gone)
    async with storage(reading=True) as uow:
        assert await uow.customers.get(full.id) == full
        assert list((await uow.customers.get(full.id)).metadata) == ["z", "a", "ü"]
        assert await uow.customers.get(gone.id) == gone


async def test_an_ordering_that_there_is_none_of_is_refused_by_name(storage):
    page = PageRequest(ordering=Ordering("email"))
    async with storage(reading=True) as uow:
        with pytest.raises(BadQuery, match="created_at, updated_at, name") as refused:
            await uow.customers.list(CustomerFilter(), page)
    assert refused.value.parameter == "ordering"


async def test_a_copy_whose_metadata_is_changed_changes_nothing_stored(storage, make, keep):
    jane = make.customer(name="Jane", metadata={"tier": "gold"})
    await keep(jane)
    jane.metadata["tier"] = "none"
    first = PageRequest(limit=1)
    query = SearchQuery.parse("Jane")
    for _ in range(2):
        async with storage(reading=True) as uow:
            (listed,) = (await uow.customers.list(CustomerFilter(), first)).items
            (found,) = (await uow.customers.search(query, CustomerFilter(), first)).items
            many = (await uow.customers.get_many([jane.id]))[jane.id]
            for read in (await uow.customers.get(jane.id), many, listed, found):
                assert read.metadata == {"tier": "gold"}
                read.metadata["tier"] = "silver"


async def test_what_does_not_exist_is_not_found(storage, make, keep):
    jane = make.customer()
    await keep(jane)
    async with storage(reading=True) as uow:
        with pytest.raises(NotFound):
            await uow.customers.get(make.id())
        assert await uow.customers.get_many([jane.id, make.id()]) == {jane.id: jane}
        assert await uow.customers.get_many([]) == {}


async def test_a_saved_customer_replaces_the_former_one(storage, make, keep, change):
    jane = make.customer(email="jane@example.com")
    await keep(jane)
    after = replace(
        jane,
        name="Jane Doe",
        email=None,
        phone=PhoneNumber("+254711000000"),
        metadata={"a": "b"},
        version=2,
    )
    await change(after)
    async with storage(reading=True) as uow:
        assert await uow.customers.get(jane.id) == after


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("jane@example.com", "jane@example.com"),
        ("jane@example.com", "JANE@Example.COM"),
        ("ünal@exämple.com", "ÜNAL@EXÄMPLE.com"),
    ],
)
async def test_an_address_is_taken_whatever_its_case(storage, make, keep, first, second):
    await keep(make.customer(email=first))
    with pytest.raises(EmailTaken):
        await keep(make.customer(email=second))


async def test_many_customers_may_have_no_address(storage, make, keep):
    await keep(make.customer(email=None), make.customer(email=None))
    assert len(await listed(storage, EVERYBODY)) == 2


async def test_an_archived_customer_frees_the_address(make, keep, change):
    jane = make.customer(email="jane@example.com")
    await keep(jane)
    await change(replace(jane, archived_at=jane.updated_at))
    other = make.customer(email="Jane@example.com")
    await keep(other, make.customer(email="jane@example.com", archived_at=jane.updated_at))
    with pytest.raises(EmailTaken):  # the address was given away meanwhile
        await change(jane)
    await change(replace(other, email="other@example.com"))
    await change(jane)


async def test_a_saved_customer_keeps_its_own_address_and_cannot_take_another_ones(
    make, keep, change
):
    jane, other = (make.customer(email="jane@example.com"), make.customer(email="o@example.com"))
    await keep(jane, other)
    await change(replace(jane, name="Jane Doe", email="JANE@example.com"))
    with pytest.raises(EmailTaken):
        await change(replace(other, email="jane@EXAMPLE.com"))


async def test_a_code_is_taken_for_ever(make, keep, change):
    jane = make.customer(code="JANE-1")
    await keep(jane)
    with pytest.raises(CodeTaken):
        await keep(make.customer(code="JANE-1"))
    await change(replace(jane, archived_at=jane.updated_at))
    with pytest.raises(CodeTaken):
        await keep(make.customer(code="JANE-1"))


def people(make):
    """Four customers; the names say what the filters below are about."""
    a = make.customer(name="a", email="A@example.com", code="AA", locale=Locale.SW)
    b = make.customer(name="b", phone=a.phone, sms_opt_out=True, email="b@example.com")
    c = make.customer(name="c", reachability=Reachability.BLOCKED)
    d = make.customer(name="d", archived_at=c.created_at, email="d@example.com")
    later = timedelta(days=1)
    return (a, replace(b, updated_at=b.updated_at + later), c, replace(d, updated_at=c.updated_at))


def filters(a, b, c, d):
    return {
        "": CustomerFilter(),
        "email": CustomerFilter(email=["a@EXAMPLE.com"]),
        "emails": CustomerFilter(email=["a@example.com", "b@example.com", "x@example.com"]),
        "no email": CustomerFilter(email=["nobody@example.com"]),
        "phone": CustomerFilter(phone=[a.phone.e164]),
        "phones": CustomerFilter(phone=[b.phone.e164, c.phone.e164]),
        "code": CustomerFilter(code=["AA"]),
        "codes": CustomerFilter(code=["AA", c.code]),
        "locale": CustomerFilter(locale=[Locale.SW]),
        "locales": CustomerFilter(locale=list(Locale)),
        "opted out": CustomerFilter(sms_opt_out=True),
        "not opted out": CustomerFilter(sms_opt_out=False),
        "reachability": CustomerFilter(sms_reachability=[Reachability.BLOCKED]),
        "reachabilities": CustomerFilter(
            sms_reachability=[Reachability.BLOCKED, Reachability.UNKNOWN]
        ),
        "archived": CustomerFilter(archived=True),
        "all": CustomerFilter(archived=None),
        "created from": CustomerFilter(created_from=b.created_at),
        "created before": CustomerFilter(created_before=b.created_at),
        "created between": CustomerFilter(created_from=b.created_at, created_before=c.created_at),
        "updated since": CustomerFilter(updated_since=c.updated_at),
        "updated later": CustomerFilter(updated_since=c.updated_at + timedelta(microseconds=1)),
        "archived and updated": CustomerFilter(archived=None, updated_since=c.updated_at),
        "and": CustomerFilter(phone=[a.phone.e164], sms_opt_out=True),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "abc"),
        ("email", "a"),
        ("emails", "ab"),
        ("no email", ""),
        ("phone", "ab"),
        ("phones", "abc"),
        ("code", "a"),
        ("codes", "ac"),
        ("locale", "a"),
        ("locales", "abc"),
        ("opted out", "b"),
        ("not opted out", "ac"),
        ("reachability", "c"),
        ("reachabilities", "abc"),
        ("archived", "d"),
        ("all", "abcd"),
        ("created from", "bc"),
        ("created before", "a"),
        ("created between", "b"),
        ("updated since", "bc"),
        ("updated later", "b"),
        ("archived and updated", "bcd"),
        ("and", "b"),
    ],
)
async def test_a_filter_finds_exactly_its_customers(storage, make, keep, name, expected):
    rows = people(make)
    await keep(*rows)
    where = filters(*rows)[name]
    async with storage(reading=True) as uow:
        page = await uow.customers.list(where, PageRequest(ordering=Ordering("name")))
    assert "".join(customer.name for customer in page.items) == expected
    assert page.count == len(expected)


@pytest.mark.parametrize(
    "ordering", ["created_at", "-created_at", "updated_at", "-updated_at", "name", "-name"]
)
async def test_pages_show_each_customer_once_and_in_order(storage, make, keep, walk, ordering):
    by = Ordering.parse(ordering)
    at = make.customer().created_at
    rows = [
        make.customer(name=name, at=at + timedelta(microseconds=shift))
        for name, shift in [("b", 5), ("B", 5), ("é", 5), ("", 0), ("b", 1), ("zz", 9), ("王", 1)]
    ]
    rows[0] = replace(rows[0], updated_at=at + timedelta(hours=3))
    rows.append(make.customer(name=None, at=at, archived_at=at, erased_at=at))
    await keep(*rows)

    def key(customer):
        return getattr(customer, by.name) or "", customer.id

    async def fetch(request):
        async with storage(reading=True) as uow:
            return await uow.customers.list(EVERYBODY, request)

    await walk(fetch, sorted(rows, key=key, reverse=by.descending), ordering=by)


async def test_the_newest_come_first_by_default_and_counting_is_optional(storage, make, keep):
    rows = [make.customer() for _ in range(3)]
    await keep(*rows)
    async with storage(reading=True) as uow:
        page = await uow.customers.list(CustomerFilter(), PageRequest(limit=2, count=False))
    assert page.items == (rows[2], rows[1])
    assert page.count is None
    assert page.next is not None


async def test_a_page_of_nothing_is_empty(storage):
    async with storage(reading=True) as uow:
        page = await uow.customers.list(CustomerFilter(), PageRequest())
    assert (page.items, page.count, page.next, page.previous) == ((), 0, None, None)


async def test_rows_that_come_while_paging_shift_nothing(storage, make, keep):
    rows = [make.customer() for _ in range(4)]
    await keep(*rows)
    async with storage(reading=True) as uow:
        first = await uow.customers.list(CustomerFilter(), PageRequest(limit=2))
    await keep(make.customer())
    async with storage(reading=True) as uow:
        request = PageRequest(limit=2, after=first.next)
        assert (await uow.customers.list(CustomerFilter(), request)).items == (rows[1], rows[0])


async def test_open_orders_are_those_under_way(storage, make, keep):
    jane, other = make.customer(), make.customer()
    orders = [make.order(jane, status=status) for status in Status]
    hidden = make.order(jane)
    await keep(jane, other, *orders, hidden, make.order(other))
    async with storage() as uow:
        await uow.orders.save(replace(hidden, deleted_at=hidden.updated_at))
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.customers.open_orders(jane.id) == 3
        assert await uow.customers.open_orders(make.id()) == 0
