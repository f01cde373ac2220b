"""Storages side by side, given the same operations until they disagree.

Each rule runs one unit of work in memory, on SQLite and on Postgres and compares what came back,
refusals included. What is right is said by the contract suites; this finds what they forgot.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete

from savannah.adapters.memory import MemoryStorage, SeededRandomness
from savannah.adapters.sql import SqlStorage, migrate
from savannah.adapters.sql.tables import metadata
from savannah.application.ports import (
    CustomerFilter,
    IdempotencyRecordKey,
    NotificationFilter,
    OrderFilter,
)
from savannah.domain.access import Caller
from savannah.domain.customer import Customer, CustomerId, Reachability
from savannah.domain.errors import CodeTaken, EmailTaken, SavannahError
from savannah.domain.events import LOGIN_ACTIONS, Event
from savannah.domain.money import Money
from savannah.domain.notification import (
    Accepted,
    Cost,
    DeliveryReport,
    Notification,
    RefusalKind,
    RefusedSms,
    Report,
    SmsStatus,
    UnknownOutcome,
)
from savannah.domain.notification_policy import Policy, SkipReason
from savannah.domain.order import (
    CROCKFORD,
    CancelReason,
    NotificationId,
    Order,
    OrderId,
    Reference,
    Status,
)
from savannah.domain.paging import Ordering, PageRequest
from savannah.domain.phone import PhoneNumber
from savannah.domain.search import SearchQuery
from savannah.domain.sms_text import Encoding, Locale, SmsEvent
from savannah.domain.statistics import Interval, Period, analytics, customer_stats

START = datetime(2026, 10, 24, 21, 30, tzinfo=UTC)  # the clocks of Berlin go back that night
SECOND = timedelta(seconds=1)
ADMIN = Caller.admin("user:admin")

# Few values of everything, so that rows often meet: same times, same names, same addresses.
moments = st.integers(0, 6).map(lambda steps: START + steps * timedelta(minutes=40))
words = st.sampled_from(
    ["Jane", "jané", "JANE smith", "Straße", "a%b", "a_b", "a\\b", "ab", "7K3", "0700 12", "王 小"]
)
maybe_emails = st.sampled_from([None, "j@example.com", "J@Example.com", "ü@x.org", "Ü@X.org"])
codes = st.sampled_from(["AA", "BB", "CUST-7K3", "JANE", "0700", "X1", "X2", "X3", "X4"])
phones = st.sampled_from(["+254700123456", "+254700124456", "+254107001234", "+256772123456"])
queries = words | st.sampled_from(
    [
        "0700",
        "0700 123 456",
        "3456",
        "+254",
        "2547",
        "x1",
        "j@",
        "ORD-",
        "ord 7k",
        "zz",
        "jane 7k3",
        "o7",
        "4456 jane",
        "12-34",
    ]
)
limits = st.integers(1, 4)


def subsets(kind: Any) -> Any:
    return st.lists(st.sampled_from(list(kind)), max_size=2)


def orderings(*names: str) -> Any:
    return st.builds(Ordering, st.sampled_from(names), descending=st.booleans())


customer_filters = st.builds(
    CustomerFilter,
    email=st.just(()) | st.lists(maybe_emails.filter(bool), max_size=2),
    phone=st.just(()) | st.lists(phones, max_size=2),
    code=st.just(()) | st.lists(codes, max_size=3),
    locale=subsets(Locale),
    sms_opt_out=st.none() | st.booleans(),
    sms_reachability=subsets(Reachability),
    archived=st.none() | st.booleans(),
    created_from=st.none() | moments,
    created_before=st.none() | moments,
    updated_since=st.none() | moments,
)
order_filters = st.builds(
    OrderFilter,
    status=subsets(Status),
    currency=subsets(["KES", "USD"]),
    min_amount=st.none() | st.integers(0, 600),
    max_amount=st.none() | st.integers(0, 600),
    sms_status=st.just(()) | subsets(SmsStatus),
    created_from=st.none() | moments,
    created_before=st.none() | moments,
    updated_since=st.none() | moments,
)
outcomes = st.sampled_from(
    [
        Accepted(provider_id="p-1", cost=Cost(currency="KES", units=8_000)),
        Accepted(provider_id="p-2", cost=Cost(currency="USD", units=3), segments=2),
        RefusedSms(kind=RefusalKind.NUMBER, code="403"),
        RefusedSms(kind=RefusalKind.TEMPORARY, code="500"),
        UnknownOutcome(cause="timeout"),
    ]
)


class StoragesAgree(RuleBasedStateMachine):
    """All storages begin empty and go through the same story."""

    customers: Bundle[CustomerId] = Bundle("customers")
    orders: Bundle[OrderId] = Bundle("orders")
    template: Path
    postgres_url: str
    _begun = 0

    def __init__(self) -> None:
        super().__init__()
        self._random = SeededRandomness()
        StoragesAgree._begun += 1
        path = self.template.with_name(f"{self._begun}.db")
        shutil.copy(self.template, path)
        self._runner = asyncio.Runner()
        self._opened = [SqlStorage.open(f"sqlite:///{path}"), SqlStorage.open(self.postgres_url)]
        self._storages = (MemoryStorage(), *self._opened)
        self._runner.run(self._empty(self._opened[1]))
        self._written = True

    async def _empty(self, storage: SqlStorage) -> None:
        async with storage() as uow:
            for table in reversed(metadata.sorted_tables):
                uow._transaction.later(delete(table), {})
            await uow.commit()

    def teardown(self) -> None:
        for storage in self._opened:
            self._runner.run(storage.close())
        self._runner.close()

    def all(self, work: Any, *, commit: bool = True) -> Any:
        """Run the work on all; what they answered, the error where they refused."""

        async def on(storage: Any) -> Any:
            try:
                async with storage() as uow:
                    answer = await work(uow)
                    if commit:
                        await uow.commit()
                    return answer
            except (EmailTaken, CodeTaken):
                return "taken"  # where both are, either may be said
            except SavannahError as error:
                return type(error), str(error)

        memory, *others = [self._runner.run(on(storage)) for storage in self._storages]
        for answer in others:
            assert answer == memory
        self._written = True
        return memory

    # --- customers -------------------------------------------------------------------------------

    @rule(
        target=customers,
        name=words,
        email=maybe_emails,
        code=codes,
        phone=phones,
        locale=st.sampled_from(Locale),
        opt_out=st.booleans(),
        at=moments,
        commit=st.sampled_from([True, True, True, False]),
    )
    def add_customer(self, *, name, email, code, phone, locale, opt_out, at, commit):
        customer = Customer(
            id=CustomerId(self._random.uuid()),
            code=code,
            name=name,
            email=email,
            phone=PhoneNumber(phone),
            locale=locale,
            sms_opt_out=opt_out,
            created_at=at,
            updated_at=at,
        )

        async def add(uow):
            await uow.customers.add(customer)

        refused = self.all(add, commit=commit) is not None
        return customer.id if commit and not refused else multiple()

    @rule(
        customer_id=customers,
        name=words,
        email=maybe_emails,
        phone=phones,
        reachability=st.sampled_from(Reachability),
        at=moments,
    )
    def change_customer(self, *, customer_id, name, email, phone, reachability, at):
        async def change(uow):
            customer = await uow.customers.get(customer_id, lock="update")
            after, _ = customer.updated({"name": name, "email": email}, region="KE", at=at)
            after = replace(after, phone=PhoneNumber(phone)).reached(reachability)
            await uow.customers.save(after)
            return await uow.customers.get(customer_id)

        self.all(change)

    @rule(customer_id=customers, at=moments, erase=st.booleans())
    def archive_or_restore(self, *, customer_id, at, erase):
        async def change(uow):
            customer = await uow.customers.get(customer_id, lock="update")
            if customer.erased_at is not None:
                return await uow.customers.open_orders(customer_id)
            if customer.archived_at is not None:
                after = customer.restored(at=at)
            else:
                after = customer.archived(at=at)
                if erase:
                    after = replace(
                        after, name=None, email=None, phone=None, notes=None, erased_at=at
                    )
            await uow.customers.save(after)
            return await uow.customers.open_orders(customer_id)

        self.all(change)

    # --- orders ----------------------------------------------------------------------------------

    @rule(
        target=orders,
        customer_id=customers,
        item=words,
        notes=words | st.just(""),
        price=st.integers(1, 300),
        quantity=st.integers(1, 2),
        currency=st.sampled_from(["KES", "KES", "USD"]),
        symbols=st.sampled_from(["7K3Q9D", "700123", "ZZZZZZ", None, None, None]),
        at=moments,
    )
    def add_order(self, *, customer_id, item, notes, price, quantity, currency, symbols, at):
        order = Order(
            id=OrderId(self._random.uuid()),
            number=Reference.make(symbols or self._random.symbols(CROCKFORD, 6)),
            customer_id=customer_id,
            item=item,
            price=Money(price, currency),
            quantity=quantity,
            notes=notes,
            created_at=at,
            updated_at=at,
            status_changed_at=at,
        )

        async def add(uow):
            await uow.orders.add(order)

        return multiple() if self.all(add) else order.id

    @rule(order_id=orders, status=st.sampled_from(Status), at=moments, notes=words)
    def move_order(self, *, order_id, status, at, notes):
        async def move(uow):
            order = await uow.orders.get(order_id, lock="update")
            reason = CancelReason.LOST if status is Status.CANCELLED else None
            after, _ = order.move_to(status, by=ADMIN, at=at, reason=reason)
            await uow.orders.save(replace(after, notes=notes))
            return await uow.orders.get(order_id)

        self.all(move)

    @rule(order_id=orders, at=moments)
    def delete_order(self, *, order_id, at):
        async def delete(uow):
            order = await uow.orders.get(order_id, lock="update")
            await uow.orders.save(order.deleted(at=at))
            await uow.notifications.skip_waiting(order_id, reason=SkipReason.ORDER_DELETED, at=at)

        self.all(delete)

    # --- messages --------------------------------------------------------------------------------

    @rule(
        order_id=orders,
        event=st.sampled_from(SmsEvent),
        resend=st.booleans(),
        due=moments,
        at=moments,
    )
    def add_message(self, *, order_id, event, resend, due, at):
        message_id = NotificationId(self._random.uuid())

        async def add(uow):
            order = await uow.orders.get(order_id)
            customer = await uow.customers.get(order.customer_id)
            newest = await uow.notifications.newest(order_id)
            key = f"{order_id}:{event}"
            if await uow.notifications.handled(key):
                key = f"{key}:{message_id}"
            message = Notification(
                id=message_id,
                order_id=order_id,
                customer_id=customer.id,
                event=event,
                dedupe_key=key,
                to=customer.phone,
                locale=customer.locale,
                text="text",
                encoding=Encoding.GSM7,
                segments=1,
                status=SmsStatus.QUEUED,
                due_at=due,
                created_at=at,
                updated_at=at,
                resend_of=newest.id if resend and newest else None,
            )
            await uow.notifications.add(message)
            return (await uow.orders.get(order_id)).sms

        self.all(add)

    @rule(now=moments, most=limits, lease=st.integers(1, 4), send=st.lists(outcomes, max_size=4))
    def dispatch(self, *, now, most, lease, send):
        async def take(uow):
            until = now + lease * timedelta(minutes=20)
            return list(await uow.notifications.lease_due(now=now, until=until, most=most))

        async def start(uow):
            due = await uow.notifications.start(ids)
            due = sorted(due, key=lambda each: each.notification.id)
            started = [
                each.notification.started(to=each.customer.phone, at=now)
                if each.customer.phone is not None and not each.order_deleted
                else each.notification.skipped(SkipReason.CUSTOMER_ERASED, at=now)
                for each in due
            ]
            await uow.notifications.save(*started)
            return due

        async def settle(uow):
            rows = await uow.notifications.get_many(ids, lock="update")
            rows = sorted(rows, key=lambda row: row.id)
            settled = [
                row.settled(outcome, policy=Policy(), jitter=0.0, at=now)
                for row, outcome in zip(rows, send, strict=False)
                if row.status is SmsStatus.SENDING
            ]
            await uow.notifications.save(*settled)
            await uow.notifications.release([row.id for row in rows[len(send) :]])
            return rows

        ids = self.all(take)
        if send:
            self.all(start)
            self.all(settle)

    @rule(
        provider_id=st.sampled_from(["p-1", "p-2", "p-3"]),
        report=st.sampled_from(Report),
        phone=phones,
        at=moments,
    )
    def report(self, *, provider_id, report, phone, at):
        arrived = DeliveryReport(
            provider_id=provider_id, report=report, word=report, phone=phone, received_at=at
        )

        async def record(uow):
            message = await uow.notifications.by_provider_id(provider_id)
            possible = await uow.notifications.open_to(phone, handed_after=at - 9000 * SECOND)
            is_new = await uow.notifications.keep_report(arrived, matched=message is not None)
            if message is not None:
                # Two messages may share an id here, and then either may be meant.
                return is_new
            if len(possible) == 1:
                await uow.notifications.save(possible[0].reported(arrived))
            return is_new, len(possible)

        self.all(record)

    @rule(ids=st.sets(st.sampled_from(["p-1", "p-2", "p-3"])))
    def kept_reports(self, *, ids):
        async def kept(uow):
            rows = await uow.notifications.kept_reports(ids)
            return sorted(rows, key=lambda row: (row.provider_id, row.word))

        self.all(kept)

    @rule(at=moments, most=limits)
    def sweep(self, *, at, most):
        async def lose(uow):
            stuck = await uow.notifications.stuck(handed_before=at, most=most)
            await uow.notifications.save(*(row.lost_sight("gone", at=at) for row in stuck))
            unknown = await uow.notifications.unknown_since(handed_before=at, most=most)
            after = at - 9000 * SECOND
            kept = await uow.notifications.unclaimed(handed_after=after, most=most)
            return list(stuck), list(unknown), list(kept)

        self.all(lose)

    @rule(at=moments, most=limits)
    def forget_reports(self, *, at, most):
        async def forget(uow):
            return await uow.notifications.forget_reports(before=at, most=most)

        self.all(forget)

    # --- events ----------------------------------------------------------------------------------

    people = st.sampled_from([UUID(int=1), UUID(int=2)])

    @rule(
        subject_id=people,
        action=st.sampled_from([*sorted(LOGIN_ACTIONS), "user.registered", "client.created"]),
        at=moments,
    )
    def tell(self, *, subject_id, action, at):
        event = Event(
            id=self._random.uuid(),
            at=at,
            actor="user:till",
            action=action,
            subject=action.partition(".")[0],
            subject_id=subject_id,
        )

        async def add(uow):
            await uow.events.add(event)

        self.all(add)

    @rule(subject_id=people, at=moments, most=limits, commit=st.booleans())
    def forget_logins(self, *, subject_id, at, most, commit):
        async def forget(uow):
            told = list(await uow.events.of("user", subject_id))
            gone = await uow.events.forget_logins(before=at, most=most)
            left = list(await uow.events.of("user", subject_id))
            return told, gone, left

        told, gone, left = self.all(forget, commit=commit)
        assert gone <= most
        for event in told:
            if event not in left:
                assert event.action in LOGIN_ACTIONS
                assert event.at <= at

    # --- keys ------------------------------------------------------------------------------------

    @rule(
        key=st.sampled_from(["a", "b"]),
        fingerprint=st.sampled_from(["f", "g"]),
        now=moments,
        most=limits,
        commit=st.booleans(),
    )
    def idempotent(self, *, key, fingerprint, now, most, commit):
        record = IdempotencyRecordKey("user:till", "POST /api/orders/", key)

        async def begin(uow):
            answer = await uow.idempotency.begin(record, fingerprint, now=now)
            if answer is None:
                expires_at = now + timedelta(minutes=60)
                await uow.idempotency.finish(record, fingerprint, b"x", expires_at=expires_at)
            return answer, await uow.idempotency.forget_expired(now=now, most=most)

        self.all(begin, commit=commit)

    # --- reading ---------------------------------------------------------------------------------

    def walk(self, fetch, limit, **request):
        """Compare every page, there and back again."""
        page = self.all(lambda uow: fetch(uow, PageRequest(limit=limit, **request)))
        pages = 1
        while page.next is not None:
            after = PageRequest(limit=limit, after=page.next, **request)
            page = self.all(lambda uow, after=after: fetch(uow, after))
            pages += 1
        while page.previous is not None:
            before = PageRequest(limit=limit, before=page.previous, **request)
            page = self.all(lambda uow, before=before: fetch(uow, before))
            pages -= 1
        assert pages == 1

    @rule(
        where=customer_filters | st.just(CustomerFilter(archived=None)),
        by=orderings("created_at", "updated_at", "name"),
        limit=limits,
    )
    def list_customers(self, *, where, by, limit):
        self.walk(lambda uow, request: uow.customers.list(where, request), limit, ordering=by)

    @rule(
        where=order_filters | st.just(OrderFilter()),
        among=st.lists(customers, max_size=2),
        by=orderings("created_at", "updated_at", "status_changed_at", "total_amount"),
        limit=limits,
    )
    def list_orders(self, *, where, among, by, limit):
        where = replace(where, customer=among)
        self.walk(lambda uow, request: uow.orders.list(where, request), limit, ordering=by)

    @rule(status=subsets(SmsStatus), among=st.lists(orders, max_size=2), limit=limits)
    def list_messages(self, *, status, among, limit):
        where = NotificationFilter(status=status, order=among)
        self.walk(lambda uow, request: uow.notifications.list(where, request), limit)

    @rule(q=queries, where=customer_filters | st.just(CustomerFilter()), limit=limits)
    def search_customers(self, *, q, where, limit):
        query = SearchQuery.parse(q)
        self.walk(lambda uow, request: uow.customers.search(query, where, request), limit)

    @rule(q=queries, where=order_filters | st.just(OrderFilter()), limit=limits)
    def search_orders(self, *, q, where, limit):
        query = SearchQuery.parse(q)
        self.walk(lambda uow, request: uow.orders.search(query, where, request), limit)

    @rule(
        customer_id=st.none() | customers,
        zone=st.sampled_from(["Europe/Berlin", "Africa/Nairobi"]),
        interval=st.sampled_from([Interval.DAY, Interval.WEEK]),
        now=moments,
    )
    def count(self, *, customer_id, zone, interval, now):
        period = Period.of(
            start=date(2026, 10, 24),
            end=date(2026, 10, 25),
            zone=ZoneInfo(zone),
            interval=interval,
            now=now,
        )

        async def stats(uow):
            sums = await uow.reports.analytics(
                period=period, currency="KES", customer=customer_id, now=now
            )
            numbers = analytics(period=period, currency="KES", sums=sums, as_of=now)
            if customer_id is None:
                return numbers
            return numbers, customer_stats(
                customer=customer_id,
                currency="KES",
                sums=await uow.reports.customer(customer_id),
                as_of=now,
            )

        self.all(stats)

    @invariant()
    def the_outbox_looks_the_same(self):
        if not self._written:
            return

        async def look(uow):
            port = uow.notifications
            numbers = ["+254700123456", "+254700124456", "+254107001234", "+256772123456"]
            texted = await port.texted_at(numbers, after=START)
            return (
                await port.next_due_at(),
                await port.backlog(),
                sorted(await port.ids_of_dead()),
                await port.spending(
                    currency="KES", today=START + timedelta(hours=1), month=START + SECOND
                ),
                {phone: sorted(times) for phone, times in texted.items() if times},
            )

        self.all(look)
        self._written = False


def test_memory_sqlite_and_postgres_never_disagree(tmp_path, postgres_server):
    template = tmp_path / "template.db"
    url = postgres_server.fresh_database()
    for each in (f"sqlite:///{template}", url):
        asyncio.run(migrate(each))
    machine = type("Machine", (StoragesAgree,), {"template": template, "postgres_url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=10,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    postgres_server.drop(url)
