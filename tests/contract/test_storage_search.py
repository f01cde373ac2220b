"""The guaranteed search: every spelling of a phone, case, accents, wildcards, tokens, rank."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from savannah.application.ports import CustomerFilter, OrderFilter
from savannah.domain.order import Reference, Status
from savannah.domain.paging import Ordering, PageRequest
from savannah.domain.phone import PhoneNumber
from savannah.domain.search import SearchQuery, match_customer, match_order

JANE = "+254700123456"
DAY = timedelta(days=1)


@pytest.fixture
def find(storage):
    async def find(q, **where):
        async with storage(reading=True) as uow:
            query = SearchQuery.parse(q)
            page = await uow.customers.search(query, CustomerFilter(**where), PageRequest())
            assert page.count == len(page.items)
            assert all(match_customer(query, customer) for customer in page.items)
            return [customer.name for customer in page.items]

    return find


@pytest.fixture
def find_orders(storage):
    async def find_orders(q, **where):
        async with storage(reading=True) as uow:
            query = SearchQuery.parse(q)
            page = await uow.orders.search(query, OrderFilter(**where), PageRequest())
            buyers = await uow.customers.get_many({order.customer_id for order in page.items})
            assert page.count == len(page.items)
            assert all(match_order(query, row, buyers[row.customer_id]) for row in page.items)
            return [order.item for order in page.items]

    return find_orders


@pytest.mark.parametrize(
    "spelling",
    [
        "+254700123456",
        "254700123456",
        "0700123456",
        "700123456",
        "00254700123456",
        "000254700123456",
        "+2540700123456",
        "2540700123456",
        "0700 123 456",
        "+254 (0)700 123-456",
        "0700.123.456",
        "0700\u00a0123\u2009456",
        " 0700123456 ",
        "0700",
        "07001",
        "254700",
        "+254700",
        "+254 700",
        "3456",
        "70012345",
        "123-456",
    ],
)
async def test_every_spelling_of_a_phone_finds_its_customer(
    make, keep, find, find_orders, spelling
):
    jane = make.customer(name="Jane", phone=PhoneNumber(JANE), code="JANE")
    other = make.customer(name="Other", phone=PhoneNumber("+256772999888"), code="OTHER")
    await keep(jane, other, make.order(jane, item="of Jane"), make.order(other, item="of Other"))
    assert await find(spelling) == ["Jane"]
    assert await find_orders(spelling) == ["of Jane"]


@pytest.mark.parametrize("q", ["0700123457", "345 67", "9999", "+254 999", "5400", "123"])
async def test_other_digits_do_not_find_a_phone(make, keep, find, q):
    await keep(make.customer(name="Jane", phone=PhoneNumber(JANE), code="JANE"))
    assert await find(q) == []


async def test_a_foreign_phone_is_found_by_its_digits(make, keep, find):
    await keep(make.customer(name="Ugandan", phone=PhoneNumber("+256772999888"), code="UG"))
    for q in ("+256772999888", "256772999888", "+256 772", "9988", "772-999-8"):
        assert await find(q) == ["Ugandan"], q
    assert await find("0256") == []


async def test_a_whole_number_finds_exactly_that_number_and_texts_that_hold_it(make, keep, find):
    await keep(
        make.customer(name="Phone", phone=PhoneNumber(JANE), code="AA"),
        make.customer(name="call 0700 123 456", phone=PhoneNumber("+254711111111"), code="BB"),
        make.customer(name="Longer", phone=PhoneNumber("+25670012345699"), code="CC"),
    )
    assert await find("0700 123 456") == ["Phone", "call 0700 123 456"]


async def test_digits_beside_words_also_find_phones(make, keep, find):
    await keep(
        make.customer(name="Jane One", phone=PhoneNumber(JANE), code="AA"),
        make.customer(name="Jane Two", phone=PhoneNumber("+254711111111"), code="BB"),
    )
    assert await find("jane 3456") == ["Jane One"]
    assert await find("0711 jane") == ["Jane Two"]
    assert await find("jane 456") == []


@pytest.mark.parametrize(
    ("name", "queries"),
    [
        ("Zoë Müller", ["zoe", "ZOË", "muller", "MÜLLER zo", "oe mul", "zoe\u0308"]),
        ("STRASSE", ["straße", "Strasse"]),
        ("Straße", ["STRASSE", "strasse"]),
        ("İstanbul", ["istanbul", "ISTANBUL"]),
        ("Łódź", ["łódź", "ŁODZ"]),
        ("\uff2a\uff41\uff4e\uff45", ["jane"]),
        ("ΣΊΣΥΦΟΣ", ["σίσυφος", "σισυφοσ"]),
        ("王小明", ["小明", "王小"]),
    ],
)
async def test_case_and_accents_do_not_matter(make, keep, find, name, queries):
    await keep(make.customer(name=name), make.customer(name="Somebody Else"))
    for q in queries:
        assert await find(q) == [name], q


@pytest.mark.parametrize("char", ["%", "_", "\\", "'", '"', "*", "?", "[", "|", "&"])
async def test_every_sign_stands_for_itself(make, keep, find, char):
    await keep(
        make.customer(name=f"a{char}b", code="AA"),
        make.customer(name="axb", code="BB"),
        make.customer(name="a\\xb", code="CC"),
        make.customer(name="ab", code="DD"),
    )
    assert await find(f"a{char}b") == [f"a{char}b"]
    assert await find(f"{char}{char}") == []


async def test_every_token_must_match_some_field(make, keep, find):
    await keep(
        make.customer(name="Jane Smith", email="js@example.com", code="AAA", notes="secret"),
        make.customer(name="Jane Doe", email="smith@example.com", code="BBB"),
        make.customer(name="John Smith", code="CCC"),
    )
    assert sorted(await find("jane smith")) == ["Jane Doe", "Jane Smith"]
    assert await find("smi jane aa") == ["Jane Smith"]
    assert await find("example doe") == ["Jane Doe"]
    assert await find("ccc") == ["John Smith"]
    assert await find("jane jane doe") == ["Jane Doe"]
    assert await find("jane nobody") == []
    assert await find("secret") == []  # a customer's notes are not searched


async def test_blanks_of_any_kind_and_number_count_as_one(make, keep, find):
    await keep(make.customer(name="Jane  van\u00a0Dijk"))
    for q in ("jane van dijk", "JANE\tVAN   DIJK", "Jane  van\u00a0Dijk"):
        assert await find(q) == ["Jane  van\u00a0Dijk"]


async def test_exact_comes_before_prefix_and_prefix_before_substring(make, keep, find):
    names = ["Maryann", "Rosemary", "Mary", "Ann Marylou", "MARY"]
    await keep(*(make.customer(name=name) for name in names))
    # Within a rank the one updated later comes first, and later rows were updated later.
    assert await find("mary") == ["MARY", "Mary", "Ann Marylou", "Maryann", "Rosemary"]


async def test_a_row_ranks_by_its_worst_token(make, keep, find):
    await keep(
        make.customer(name="Smith Jane"),
        make.customer(name="Blacksmith Jane"),
        make.customer(name="Jane Smith"),
        make.customer(name="Jane Smithson"),
    )
    assert await find("jane smith") == [
        "Jane Smith",
        "Jane Smithson",
        "Smith Jane",
        "Blacksmith Jane",
    ]


async def test_rank_looks_at_every_field(make, keep, find):
    await keep(
        make.customer(name="By code", code="KAREN"),
        make.customer(name="By mail", email="karen@example.com", code="X1"),
        make.customer(name="Inside", email="mr.karen@example.com", code="X2"),
        make.customer(name="Karen", code="X3"),
    )
    assert await find("karen") == ["Karen", "By code", "By mail", "Inside"]


async def test_phone_digits_rank_as_a_prefix_where_a_spelling_begins_with_them(make, keep, find):
    await keep(
        make.customer(name="inside", phone=PhoneNumber("+254799070012")),
        make.customer(name="national", phone=PhoneNumber("+254700120000")),
        make.customer(name="inside too", phone=PhoneNumber("+254799907001")),
    )
    assert await find("07001") == ["national", "inside too", "inside"]
    assert await find("2547001") == ["national"]


async def test_equal_ranks_come_newest_first_then_by_id(storage, make, keep, walk):
    at = make.customer().created_at
    shifts = [0, 3, 3, 1, 3, 0]
    rows = [
        make.customer(name=name, at=at + timedelta(microseconds=shift))
        for shift in shifts
        for name in ("rose", "rosemary", "primrose")
    ]
    await keep(*rows, make.customer(name="somebody"))
    query = SearchQuery.parse("rose")

    def key(customer):
        return (match_customer(query, customer).rank, at - customer.updated_at, customer.id)

    async def fetch(request):
        async with storage(reading=True) as uow:
            return await uow.customers.search(query, CustomerFilter(), request)

    await walk(fetch, sorted(rows, key=key), ordering=Ordering("name"))


async def test_a_search_keeps_to_its_filter(make, keep, find):
    live, gone = (make.customer(name="Rose A", sms_opt_out=True), make.customer(name="Rose B"))
    await keep(live, replace(gone, archived_at=gone.updated_at))
    assert await find("rose") == ["Rose A"]
    assert await find("rose", archived=True) == ["Rose B"]
    assert await find("rose", archived=None) == ["Rose B", "Rose A"]
    assert await find("rose", sms_opt_out=False) == []


async def test_an_erased_customer_is_found_by_the_code_alone(storage, make, keep, find):
    jane = make.customer(name="Jane", phone=PhoneNumber(JANE), email="j@example.com", code="JJJ")
    await keep(jane)
    at = jane.updated_at
    erased = replace(
        jane, name=None, phone=None, email=None, notes=None, archived_at=at, erased_at=at
    )
    async with storage() as uow:
        await uow.customers.save(erased)
        await uow.commit()
    for q in ("jane", "0700123456", "3456", "example"):
        assert await find(q, archived=None) == []
    assert await find("jjj", archived=None) == [None]


async def test_a_changed_customer_is_found_by_what_is_true_now(
    storage, make, keep, find, find_orders
):
    jane = make.customer(name="Jane", phone=PhoneNumber(JANE), code="J1")
    await keep(jane, make.order(jane, item="Desk"))
    after = replace(jane, name="Zuri", phone=PhoneNumber("+254711555666"))
    async with storage() as uow:
        await uow.customers.save(after)
        await uow.commit()
    assert await find("jane") == await find(JANE) == await find_orders("jane") == []
    assert await find("zuri") == await find("0711 555 666") == ["Zuri"]
    assert await find_orders("zuri") == await find_orders("5666") == ["Desk"]


async def test_an_order_is_found_by_each_of_its_fields_and_its_customers(make, keep, find_orders):
    jane = make.customer(
        name="Jane Smith", email="js@example.com", code="VIP-1", phone=PhoneNumber(JANE), notes="x"
    )
    other = make.customer(name="Other", code="OO")
    await keep(
        jane,
        other,
        make.order(jane, item="Laptop Computer", notes="urgent\nway"),
        make.order(other, item="Desk"),
    )
    for q in ("laptop", "computer lap", "URGENT", "urgent way", "jane", "js@", "vip-1", "3456"):
        assert await find_orders(q) == ["Laptop Computer"], q
    assert await find_orders("laptop smith vip urgent") == ["Laptop Computer"]
    assert await find_orders("laptop nobody") == []


@pytest.mark.parametrize(
    "spelling",
    [
        "ORD-{a}-{c}",
        "ord-{a}-{c}",
        "{a}{c}",
        "{a}-{c}",
        "ord {a} {c}",
        "Ord{a}{c}",
        "{a}",
        "ORD-{a}",
        "{a3}",
        "ord-{a3}",
    ],
)
async def test_an_order_number_is_read_forgivingly(make, keep, find_orders, spelling):
    jane = make.customer(name="Jane", code="JJ", phone=PhoneNumber("+254799999999"))
    number, other = Reference.make("7K01Q9"), Reference.make("ZZZZZZ")
    await keep(jane, make.order(jane, number=number, item="it"), make.order(jane, number=other))
    _, symbols, check = number.split("-")
    typed = spelling.format(a=symbols, a3=symbols[:3], c=check)
    assert await find_orders(typed) == ["it"]
    assert await find_orders(typed.lower()) == ["it"]
    assert await find_orders(typed.replace("0", "o").replace("1", "l")) == ["it"]


@pytest.mark.parametrize("mark", ["#", "\n", "*"])
async def test_a_mark_before_an_order_number_is_no_part_of_it(make, keep, find_orders, mark):
    jane = make.customer(name="Jane", code="JANE")
    order = make.order(jane, item="Laptop")
    await keep(jane, order)
    symbols = order.number.removeprefix("ORD-")[:4]
    assert await find_orders(symbols) == ["Laptop"]
    assert await find_orders(f"{mark}{symbols}") == (["Laptop"] if mark.isspace() else [])


async def test_the_very_order_number_comes_first(make, keep, find_orders):
    jane = make.customer(name="Jane")
    number = Reference.make("7K3Q9D")
    await keep(
        jane,
        make.order(jane, number=number, item="exact"),
        make.order(jane, item="see " + number),
        make.order(jane, item=number + " again"),
    )
    expected = ["exact", number + " again", "see " + number]
    assert await find_orders(number) == expected
    assert await find_orders(number.removeprefix("ORD-").replace("-", "")) == ["exact"]


async def test_an_order_search_keeps_to_its_filter_and_its_order(storage, make, keep, walk):
    jane, john = make.customer(name="Jane"), make.customer(name="John")
    rows = [
        make.order(who, item=item, status=status)
        for item in ("rose", "primrose", "rosebud", "tulip")
        for who in (jane, john)
        for status in (Status.PENDING, Status.SHIPPED)
    ]
    await keep(jane, john, *rows)
    query = SearchQuery.parse("rose")
    wanted = [
        row
        for row in rows
        if row.customer_id == jane.id and row.status is Status.PENDING and "rose" in row.item
    ]

    def key(order):
        return (match_order(query, order, jane).rank, jane.created_at - order.updated_at, order.id)

    async def fetch(request):
        async with storage(reading=True) as uow:
            where = OrderFilter(customer=[jane.id], status=[Status.PENDING])
            return await uow.orders.search(query, where, request)

    await walk(fetch, sorted(wanted, key=key))


async def test_orders_of_an_archived_customer_are_found(storage, make, keep, find_orders):
    jane = make.customer(name="Jane")
    await keep(jane, make.order(jane, item="Desk", status=Status.DELIVERED))
    async with storage() as uow:
        await uow.customers.save(replace(jane, archived_at=jane.updated_at))
        await uow.commit()
    assert await find_orders("jane") == ["Desk"]


async def test_pages_of_a_common_word_are_whole_and_in_order(storage, make, keep, walk):
    """A word in nearly every row, at all three ranks, with a few rows that lack it."""
    jane, john = make.customer(name="Tea"), make.customer(name="John")
    items = ["tea", "green tea", "steam iron", "teapot", "kettle"]
    at = jane.updated_at
    rows = [
        make.order(
            jane if number % 7 == 0 else john, item=items[number % 5], at=at - DAY * (number % 9)
        )
        for number in range(30)
    ]
    await keep(jane, john, *rows)
    query = SearchQuery.parse("tea")
    buyers = {jane.id: jane, john.id: john}

    def key(order):
        match = match_order(query, order, buyers[order.customer_id])
        return match and (match.rank, at - order.updated_at, order.id)

    async def fetch(request):
        async with storage(reading=True) as uow:
            return await uow.orders.search(query, OrderFilter(), request)

    await walk(fetch, sorted((row for row in rows if key(row)), key=key))


async def test_tokens_may_be_in_an_order_and_in_its_customer(make, keep, find_orders):
    jane = make.customer(name="Jane Smith", code="VIP-1", phone=PhoneNumber(JANE))
    john = make.customer(name="John Smith", code="VIP-2", phone=PhoneNumber("+254711000000"))
    await keep(
        *(jane, john),
        make.order(jane, number=Reference.make("7K01Q9"), item="Oak desk", notes="before noon"),
        make.order(john, number=Reference.make("ZZZZZZ"), item="Oak desk lamp", notes="noon"),
    )
    for q in ("oak jane", "jane desk 7k0", "oak vip-1 noon 3456", "smith oak before desk jane"):
        assert await find_orders(q) == ["Oak desk"], q
    assert await find_orders("oak smith noon desk vip") == ["Oak desk lamp", "Oak desk"]
    assert await find_orders("7ko1 oak") == ["Oak desk"]
    assert await find_orders("oak smith lamp jane") == []
