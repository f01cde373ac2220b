"""Use cases on customers: what is done, recorded and refused, and that refusals leave nothing."""

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from savannah.adapters.memory.customers import MemoryCustomers
from savannah.application.business import Business
from savannah.application.ports import CustomerFilter
from savannah.domain.access import ROLE_SCOPES, Caller, Role, Scope
from savannah.domain.errors import (
    BadQuery,
    CodeTaken,
    CustomerArchived,
    CustomerErased,
    CustomerHasOpenOrders,
    EmailTaken,
    InsufficientScope,
    Invalid,
    NotFound,
    StaleVersion,
    Unavailable,
)
from savannah.domain.order import Status
from savannah.domain.paging import PageRequest
from savannah.domain.sms_text import Locale

HOUR = timedelta(hours=1)
JANE = "+254700123456"


# Taking on


async def test_a_new_customer_is_stored_with_a_code_of_its_own_and_an_event(desk):
    by = replace(desk.staff, request_id="req-1")
    jane = await desk.customers.create(name="Jane Smith", phone_number="0700 123 456", by=by)
    assert await desk.customers.get(jane.id, by=desk.viewer) == jane
    assert jane.code.startswith("CUST-")
    assert (jane.phone.e164, jane.locale, jane.created_at) == (JANE, Locale.EN, desk.clock.now())
    (event,) = await desk.events("customer", jane.id)
    assert (event.action, event.actor, event.version) == ("customer.created", "user:ann", 1)
    assert (event.at, event.request_id, event.data) == (jane.created_at, "req-1", {})


async def test_the_business_decides_what_is_not_said(open_desk):
    desk = open_desk(business=Business(region="UG", locale=Locale.SW))
    jane = await desk.customer()
    assert (jane.phone.e164, jane.locale) == ("+256700123456", Locale.SW)
    assert (await desk.customer(locale="en")).locale is Locale.EN


async def test_every_field_can_be_given(desk):
    jane = await desk.customer(
        email="jane@example.com",
        code="jane-1",
        locale="sw",
        sms_opt_out=True,
        notes="VIP",
        metadata={"tier": "gold"},
    )
    assert (jane.email, jane.code, jane.locale) == ("jane@example.com", "JANE-1", Locale.SW)
    assert (jane.sms_opt_out, jane.notes, jane.metadata) == (True, "VIP", {"tier": "gold"})


async def test_a_family_may_share_a_phone(desk):
    assert (await desk.customer()).phone == (await desk.customer(name="John")).phone


async def test_broken_fields_store_nothing(desk, refusal):
    invalid = await refusal(Invalid, desk.customer(name="", phone_number="x", email="y"))
    assert [each.field for each in invalid.problems] == ["name", "phone_number", "email"]
    assert await desk.all_customers() == []


async def test_an_address_belongs_to_one_customer_without_case(desk, refusal):
    await desk.customer(email="jane@example.com")
    await refusal(EmailTaken, desk.customer(email="JANE@example.com"))
    assert len(await desk.all_customers()) == 1


async def test_a_code_belongs_to_one_customer_for_ever(desk, refusal):
    jane = await desk.customer(code="JANE")
    await desk.customers.archive(jane.id, by=desk.admin)
    await refusal(CodeTaken, desk.customer(code="jane"))
    assert len(await desk.all_customers()) == 1


async def test_a_drawn_code_that_is_taken_is_drawn_again(open_desk):
    desk = open_desk(symbols=["AAAAAA", "AAAAAA", "AAAAAA", "BBBBBB"])
    first, second = await desk.customer(), await desk.customer()
    assert (first.code, second.code) == ("CUST-AAAAAA", "CUST-BBBBBB")
    assert len(await desk.events("customer", second.id)) == 1
    assert len(await desk.all_customers()) == 2


async def test_drawing_codes_ends_at_some_time(open_desk, refusal):
    desk = open_desk(symbols=["AAAAAA"] * 6)
    await desk.customer()
    await refusal(CodeTaken, desk.customer())
    assert len(await desk.all_customers()) == 1


async def test_a_commit_that_fails_leaves_nothing(open_desk, rigged, refusal):
    desk = open_desk(storage=rigged)
    rigged.fail(1)
    await refusal(Unavailable, desk.customer(email="jane@example.com", code="JANE"))
    assert await desk.all_customers() == []
    jane = await desk.customer(email="jane@example.com", code="JANE")
    assert len(await desk.events("customer", jane.id)) == 1


# Finding


async def test_customers_are_found_by_id_list_and_search(desk, refusal):
    jane, john = (
        await desk.customer(),
        await desk.customer(name="John", phone_number="0711 1 1 1111"),
    )
    by = desk.viewer
    assert await desk.customers.get_many([jane.id, uuid4()], by=by) == {jane.id: jane}
    page = await desk.customers.list(CustomerFilter(phone=(JANE,)), PageRequest(), by=by)
    assert page.items == (jane,)
    found = await desk.customers.search("john", CustomerFilter(), PageRequest(), by=by)
    (hit,) = found.items
    assert (hit.item, hit.match.field, hit.match.kind) == (john, "name", "exact")
    found = await desk.customers.search("0700123456", CustomerFilter(), PageRequest(), by=by)
    assert [(hit.item, hit.match.field) for hit in found.items] == [(jane, "phone_number")]
    await refusal(NotFound, desk.customers.get(uuid4(), by=by))
    short = await refusal(
        BadQuery, desk.customers.search("j", CustomerFilter(), PageRequest(), by=by)
    )
    assert short.code == "query_too_short"


# Updating


async def test_an_update_is_one_revision_and_one_event(desk):
    jane = await desk.customer()
    desk.clock.advance(HOUR)
    after = await desk.customers.update(
        jane.id, {"name": "Jane Doe", "phone_number": "0711111111"}, by=desk.staff, if_match={1}
    )
    assert (after.name, after.version, after.updated_at) == ("Jane Doe", 2, desk.clock.now())
    assert await desk.customers.get(jane.id, by=desk.viewer) == after
    event = (await desk.events("customer", jane.id))[-1]
    assert (event.action, event.version) == ("customer.updated", 2)
    assert event.data == {"fields": ["name", "phone_number"]}


async def test_the_wish_for_texts_is_on_record(desk):
    jane = await desk.customer()
    await desk.customers.update(jane.id, {"sms_opt_out": True}, by=desk.staff)
    event = (await desk.events("customer", jane.id))[-1]
    assert event.data == {"fields": ["sms_opt_out"], "sms_opt_out": True}


async def test_an_update_that_changes_nothing_leaves_no_trace(desk):
    jane = await desk.customer()
    desk.clock.advance(HOUR)
    after = await desk.customers.update(jane.id, {"name": " Jane Smith "}, by=desk.staff)
    assert after == jane
    assert await desk.customers.get(jane.id, by=desk.viewer) == jane
    assert len(await desk.events("customer", jane.id)) == 1


async def test_fields_come_before_versions_and_versions_before_states(desk, refusal):
    jane = await desk.customer()
    await desk.customers.archive(jane.id, by=desk.admin)

    def update(changes, if_match):
        return desk.customers.update(jane.id, changes, by=desk.staff, if_match=if_match)

    await refusal(Invalid, update({"name": ""}, {1}))
    stale = await refusal(StaleVersion, update({"name": "Jane Doe"}, {1}))
    assert stale.current_version == 2
    await refusal(CustomerArchived, update({"name": "Jane Doe"}, {2}))
    await refusal(CustomerArchived, update({}, None))
    await refusal(NotFound, desk.customers.update(uuid4(), {"name": ""}, by=desk.staff))


async def test_an_erased_customer_is_not_updated(desk, refusal):
    jane = await desk.customer()
    await desk.keep(replace(jane, erased_at=desk.clock.now(), archived_at=desk.clock.now()))
    await refusal(CustomerErased, desk.customers.update(jane.id, {"name": "Jane"}, by=desk.staff))


async def test_a_taken_address_changes_nothing(desk, refusal):
    await desk.customer(email="john@example.com")
    jane = await desk.customer()
    await refusal(
        EmailTaken,
        desk.customers.update(jane.id, {"email": "John@example.com", "name": "J"}, by=desk.staff),
    )
    assert await desk.customers.get(jane.id, by=desk.viewer) == jane
    assert len(await desk.events("customer", jane.id)) == 1


# Archiving


async def test_an_archived_customer_is_still_there_but_frees_the_address(desk):
    jane = await desk.customer(email="jane@example.com")
    await desk.customers.archive(jane.id, by=desk.admin, if_match={1})
    away = await desk.customers.get(jane.id, by=desk.viewer)
    assert (away.archived_at, away.version) == (desk.clock.now(), 2)
    assert (await desk.customers.list(CustomerFilter(), PageRequest(), by=desk.viewer)).items == ()
    assert (await desk.events("customer", jane.id))[-1].action == "customer.archived"
    await desk.customer(email="jane@example.com")


async def test_archiving_again_is_fine_and_changes_nothing(desk):
    jane = await desk.customer()
    for _ in range(2):
        await desk.customers.archive(jane.id, by=desk.admin)
        desk.clock.advance(HOUR)
    assert (await desk.customers.get(jane.id, by=desk.viewer)).version == 2
    assert len(await desk.events("customer", jane.id)) == 2


async def test_orders_under_way_keep_their_customer(desk, refusal):
    jane = await desk.customer()
    first, second = await desk.order(jane), await desk.order(jane)
    await desk.moved(second, Status.PROCESSING, Status.SHIPPED)
    archive = lambda: desk.customers.archive(jane.id, by=desk.admin)  # noqa: E731 - called thrice
    assert (await refusal(CustomerHasOpenOrders, archive())).open_orders == 2
    await desk.orders.cancel(first.id, by=desk.staff)
    assert (await refusal(CustomerHasOpenOrders, archive())).open_orders == 1
    await desk.moved(second, Status.DELIVERED)
    await archive()
    assert (await desk.customers.get(jane.id, by=desk.viewer)).archived_at is not None


async def test_archiving_asks_for_the_version_and_the_customer(desk, refusal):
    jane = await desk.customer()
    await refusal(StaleVersion, desk.customers.archive(jane.id, by=desk.admin, if_match={9}))
    await refusal(NotFound, desk.customers.archive(uuid4(), by=desk.admin))
    assert await desk.customers.get(jane.id, by=desk.viewer) == jane


async def test_a_restored_customer_is_live_again(desk):
    jane = await desk.customer()
    await desk.customers.archive(jane.id, by=desk.admin)
    back = await desk.customers.restore(jane.id, by=desk.admin, if_match={2})
    assert (back.archived_at, back.version) == (None, 3)
    assert (await desk.events("customer", jane.id))[-1].action == "customer.restored"
    again = await desk.customers.restore(jane.id, by=desk.admin)
    assert again == back
    assert len(await desk.events("customer", jane.id)) == 3


async def test_what_stands_against_restoring(desk, refusal):
    jane = await desk.customer(email="jane@example.com")
    await desk.customers.archive(jane.id, by=desk.admin)
    await desk.customer(email="jane@example.com")
    away = await desk.customers.get(jane.id, by=desk.viewer)
    restore = desk.customers.restore
    await refusal(EmailTaken, restore(jane.id, by=desk.admin))
    await refusal(StaleVersion, restore(jane.id, by=desk.admin, if_match={1}))
    await refusal(NotFound, restore(uuid4(), by=desk.admin))
    assert await desk.customers.get(jane.id, by=desk.viewer) == away
    await desk.keep(replace(away, erased_at=desk.clock.now()))
    await refusal(CustomerErased, restore(jane.id, by=desk.admin))


# Opting out


async def test_a_subscribers_wish_reaches_everybody_with_that_phone(desk):
    jane, john, other = [
        await desk.customer(),
        await desk.customer(name="John"),
        await desk.customer(phone_number="0711111111"),
    ]
    await desk.customers.archive(john.id, by=desk.admin)
    assert await desk.customers.opt_out(JANE, source="gateway") == 2
    after = {row.id: row for row in await desk.all_customers()}
    assert after[jane.id].sms_opt_out
    assert after[john.id].sms_opt_out
    assert after[other.id] == other
    event = (await desk.events("customer", jane.id))[-1]
    assert (event.actor, event.action) == ("gateway", "customer.updated")
    assert event.data == {"fields": ["sms_opt_out"], "sms_opt_out": True}
    assert await desk.customers.opt_out(JANE, source="gateway") == 0
    assert len(await desk.events("customer", jane.id)) == 2


async def test_a_wish_reaches_more_than_a_page_of_customers(desk):
    for _ in range(101):
        await desk.customer()
    assert await desk.customers.opt_out(JANE, source="gateway") == 101
    assert all(row.sms_opt_out for row in await desk.all_customers())


class ListedTwice(MemoryCustomers):
    """A list that is out of date by the time its rows are locked."""

    async def list(self, where, page):
        found = await super().list(where, page)
        return replace(found, items=found.items * 2)


async def test_a_wish_that_was_respected_meanwhile_is_not_recorded_twice(open_desk, rigged):
    desk = open_desk(storage=rigged)
    jane = await desk.customer()
    rigged.rig = lambda uow: setattr(uow, "customers", ListedTwice(uow.customers._tables))
    assert await desk.customers.opt_out(JANE, source="gateway") == 1
    assert len(await desk.events("customer", jane.id)) == 2


# Permissions

CALLS = {
    "create": (
        Scope.CUSTOMERS_WRITE,
        lambda use, by: use.create(name="Jane", phone_number=JANE, by=by),
    ),
    "get": (Scope.CUSTOMERS_READ, lambda use, by: use.get(uuid4(), by=by)),
    "get_many": (Scope.CUSTOMERS_READ, lambda use, by: use.get_many([], by=by)),
    "list": (
        Scope.CUSTOMERS_READ,
        lambda use, by: use.list(CustomerFilter(), PageRequest(), by=by),
    ),
    "search": (
        Scope.CUSTOMERS_READ,
        lambda use, by: use.search("jane", CustomerFilter(), PageRequest(), by=by),
    ),
    "update": (Scope.CUSTOMERS_WRITE, lambda use, by: use.update(uuid4(), {}, by=by)),
    "archive": (Scope.CUSTOMERS_DELETE, lambda use, by: use.archive(uuid4(), by=by)),
    "restore": (Scope.CUSTOMERS_DELETE, lambda use, by: use.restore(uuid4(), by=by)),
}


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("role", Role)
async def test_a_role_may_call_what_its_scopes_cover(desk, role, method):
    scope, call = CALLS[method]
    try:
        await call(desk.customers, Caller.with_role("user:x", role))
    except InsufficientScope:
        allowed = False
    except NotFound:
        allowed = True
    else:
        allowed = True
    assert allowed == (scope in ROLE_SCOPES[role])


@pytest.mark.parametrize("method", CALLS)
async def test_a_call_needs_its_scope_and_no_other(desk, method, refusal):
    scope, call = CALLS[method]
    others = Caller(principal="client:x", permissions=frozenset(Scope) - {scope})
    denied = await refusal(InsufficientScope, call(desk.customers, others))
    assert denied.required_scope == scope
    assert await desk.all_customers() == []
    alone = Caller(principal="client:x", permissions=frozenset({scope}))
    try:
        await call(desk.customers, alone)
    except NotFound:
        assert method in {"get", "update", "archive", "restore"}
