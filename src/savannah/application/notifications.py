"""Use cases on messages: the outbox relay, the sending, what gateways report, and resending.

The message row is the outbox. `dispatch_due` leases rows and gives their ids to the queue, `send`
hands them to the gateway outside any transaction, `sweep` finds what a crash left behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from savannah.application import idempotency, trace
from savannah.application.business import Business
from savannah.application.customers import learn_reachability
from savannah.application.idempotency import Once
from savannah.application.ports import (
    Clock,
    DueMessage,
    JobQueue,
    Metrics,
    NotificationFilter,
    Randomness,
    Sms,
    SmsGateway,
    Storage,
    UnitOfWork,
)
from savannah.domain import text
from savannah.domain.access import Caller, Scope
from savannah.domain.customer import Reachability
from savannah.domain.errors import (
    CustomerErased,
    CustomerOptedOut,
    NoSmsForStatus,
    NotFound,
    Problems,
    ResendThrottled,
    SmsBudgetExhausted,
    Unavailable,
)
from savannah.domain.events import Event
from savannah.domain.notification import (
    Accepted,
    DeliveryReport,
    Notification,
    Outcome,
    Pause,
    RefusalKind,
    RefusedSms,
    SmsStatus,
    UnknownOutcome,
)
from savannah.domain.notification_policy import (
    Action,
    Facts,
    Spending,
    budget_free_at,
    decide,
    resend_free_at,
)
from savannah.domain.order import NotificationId, OrderId
from savannah.domain.paging import Page, PageRequest
from savannah.domain.sms_text import SmsEvent

log = logging.getLogger("savannah.notifications")

LEASE: Final = timedelta(seconds=30)
REPORT_WINDOW: Final = timedelta(hours=24)
# So far two processes may differ about the time at which a message is due.
_CLOCKS_APART: Final = timedelta(seconds=1)
_PAUSING: Final = (RefusalKind.ACCOUNT, RefusalKind.SENDER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one sweep found: messages of a dead attempt, blind retries, expired keys, old reports.

    `more` tells that it should be repeated soon, because it came to its limit.
    """

    stuck: int = 0
    retried: int = 0
    expired_keys: int = 0
    old_reports: int = 0
    more: bool = False


@dataclass(slots=True, eq=False)
class _Results:
    """What gateways answered, to be kept in one unit of work."""

    results: list[tuple[Notification, Outcome]] = field(default_factory=list)
    over: bool = False


class Notifications:
    """What can be done with messages.

    `dispatch_due`, `send`, `sweep` and `record_report` are the machine's own work and take no
    caller; the rest checks the caller's permission first.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        gateway: SmsGateway,
        jobs: JobQueue,
        clock: Clock,
        randomness: Randomness,
        metrics: Metrics,
        business: Business,
        in_flight: int = 32,
        stuck_after: timedelta = timedelta(seconds=60),
        keep_again_after: Sequence[timedelta] = (),
        gather: timedelta = timedelta(0),
        report_retention: timedelta = timedelta(days=30),
    ) -> None:
        """Takes the ports.

        Args:
            in_flight: how many requests to the gateway may run at once in this process.
            stuck_after: an attempt that old died with its process; longer than any gateway
                timeout.
            keep_again_after: the pauses between the tries to keep what the gateway answered,
                when storage is away; together well below `stuck_after`.
            gather: how long an outcome waits for others, while requests are under way, to be
                kept in one unit of work with them; a crash meanwhile makes them unknown.
            report_retention: how long delivery reports are kept as they came; a day at least,
                for so long one may wait for its message.

        Raises:
            ValueError: that is too short.
        """
        if report_retention < REPORT_WINDOW:
            raise ValueError("report_retention must be a day or longer")
        self._storage = storage
        self._gateway = gateway
        self._jobs = jobs
        self._clock = clock
        self._randomness = randomness
        self._metrics = metrics
        self._policy = business.policy
        self._currency = business.currency
        self._slots = asyncio.Semaphore(in_flight)
        self._stuck_after = stuck_after
        self._keep_again_after = tuple(keep_again_after)
        self._gather_s = gather.total_seconds()
        self._report_retention = report_retention
        self._under_way = 0
        self._keeping = asyncio.Lock()
        self._results = _Results()

    # --- the relay -------------------------------------------------------------------------------

    async def dispatch_due(self, *, most: int = 256) -> int:
        """Lease up to `most` due messages and queue them; how many.

        While the gateway is paused nothing goes out, and the first one after that is a probe.
        """
        now = self._clock.now()
        async with self._storage() as uow:
            pause = await uow.notifications.pause()
            if pause is not None and pause.until > now:
                return 0
            ids = await uow.notifications.lease_due(
                now=now, until=now + LEASE, most=most if pause is None else 1
            )
            await uow.commit()
        if ids:
            try:
                await self._jobs.enqueue(ids)
            except Unavailable:
                await self.give_back(ids)  # or they would wait for the end of their leases
                raise
        return len(ids)

    async def give_back(self, ids: Sequence[NotificationId]) -> None:
        """End leases early: the messages are due again at once, here or elsewhere."""
        async with self._storage() as uow:
            await uow.notifications.release(ids)
            await uow.commit()

    async def next_due_at(self) -> datetime | None:
        """When the relay should look again, at the latest; None when nothing waits."""
        async with self._storage(reading=True) as uow:
            due = await uow.notifications.next_due_at()
            pause = await uow.notifications.pause()
        if due is None or pause is None:
            return due
        return max(due, pause.until)

    async def sweep(self, *, most: int = 500) -> Swept:
        """Find attempts that died with their process, and what follows an unknown outcome.

        Also reports that came before it was known whose they are: in the same instant as the
        answer to their send, or before it was certain that none comes. What has been kept long
        enough is deleted. Up to `most` of each.
        """
        now = self._clock.now()
        async with self._storage() as uow:
            stuck = await uow.notifications.stuck(handed_before=now - self._stuck_after, most=most)
            lost = [message.lost_sight("interrupted", at=now) for message in stuck]
            if lost:
                await uow.notifications.save(*lost)
            told = await self._heed_kept(uow, now=now, most=most)
            retried: list[Notification] = []
            if self._policy.resend_unknown:
                waited = now - self._policy.unknown_wait
                unknown = await uow.notifications.unknown_since(handed_before=waited, most=most)
                retried = [
                    message.retried_blindly(policy=self._policy, at=now) for message in unknown
                ]
            if retried:
                await uow.notifications.save(*retried)
            expired = await uow.idempotency.forget_expired(now=now, most=most)
            reports = await uow.notifications.forget_reports(
                before=now - self._report_retention, most=most
            )
            await uow.commit()
        self._count([*lost, *told, *retried])
        if retried:
            self._jobs.wake()
        if lost:
            log.warning("attempts died with their process", extra={"messages": len(lost)})
        return Swept(
            stuck=len(lost),
            retried=len(retried),
            expired_keys=expired,
            old_reports=reports,
            more=max(len(lost), len(retried), expired, reports) >= most,
        )

    async def backlog(self) -> tuple[int, timedelta]:
        """How many messages wait, and for how long the oldest one that is due has waited."""
        async with self._storage(reading=True) as uow:
            depth, since = await uow.notifications.backlog()
        age = timedelta(0) if since is None else self._clock.now() - since
        return depth, max(age, timedelta(0))

    async def pause(self) -> Pause | None:
        """The gateway's trouble, if any, that keeps messages waiting."""
        async with self._storage(reading="each") as uow:
            return await uow.notifications.pause()

    # --- the sending -----------------------------------------------------------------------------

    async def send(self, ids: Sequence[NotificationId]) -> None:
        """Hand leased messages to the gateway and keep what became of them.

        The gateway is called outside any transaction, after `sending` was committed; a crash in
        between turns into `unknown`, never into a blind second send. Cancelled, it makes those due
        again at once whose requests have not begun.
        """
        started = await self._start(ids)
        not_begun = {message.id: message for message in started}
        by_order: dict[OrderId, list[Notification]] = {}
        for message in started:
            by_order.setdefault(message.order_id, []).append(message)
        try:
            await asyncio.gather(
                *(self._deliver_in_turn(messages, not_begun) for messages in by_order.values())
            )
        except asyncio.CancelledError:
            if not_begun:
                await self._take_back(not_begun)
            raise

    async def _start(self, ids: Sequence[NotificationId]) -> Sequence[Notification]:
        """Judge the messages with what is known now; those that go out are marked `sending`."""
        now = self._clock.now()
        async with self._storage() as uow:
            pause = await uow.notifications.pause()
            ids = list(dict.fromkeys(ids))
            if pause is not None:
                probes = [] if pause.until > now else ids[:1]
                await uow.notifications.release([id_ for id_ in ids if id_ not in probes])
                ids = probes
            waiting = await uow.notifications.start(ids) if ids else ()
            latest = now + _CLOCKS_APART
            due = [each for each in waiting if each.notification.due_at <= latest]
            # The queue doubled an id whose message waits for a retry, or the clock went back.
            early = [each.notification.id for each in waiting if each.notification.due_at > latest]
            await uow.notifications.release(early)
            judged = await self._judge(uow, due, now=now)
            if judged:
                await uow.notifications.save(*judged)
            if pause is not None and any(each.status is SmsStatus.SENDING for each in judged):
                # This one probe is enough; whatever else is due waits for what it finds.
                await uow.notifications.set_pause(replace(pause, until=now + self._policy.pause))
            await uow.commit()
        self._count(message for message in judged if message.status is not SmsStatus.SENDING)
        return [message for message in judged if message.status is SmsStatus.SENDING]

    async def _judge(
        self, uow: UnitOfWork, due: Sequence[DueMessage], *, now: datetime
    ) -> list[Notification]:
        texted: dict[str, list[datetime]] = {}
        if due and (limit := self._policy.phone_limit) is not None:
            phones = {each.customer.phone.e164 for each in due if each.customer.phone is not None}
            found = await uow.notifications.texted_at(phones, after=now - limit.window)
            texted = {phone: list(found.get(phone, ())) for phone in phones}
        spending = await self._spending(uow, now=now) if due else Spending()
        judged: list[Notification] = []
        for each in due:
            customer, message = each.customer, each.notification
            phone = customer.phone
            times = texted.get(phone.e164, []) if phone is not None else []
            verdict = decide(
                Facts(
                    now=now,
                    event=message.event,
                    phone=phone,
                    order_deleted=each.order_deleted,
                    customer_erased=customer.erased_at is not None,
                    opted_out=customer.sms_opt_out,
                    blocked=customer.reachability is Reachability.BLOCKED,
                    asked_by_human=message.resend_of is not None,
                    texted_at=times,
                    spent_today=spending.today,
                    spent_this_month=spending.this_month,
                ),
                self._policy,
            )
            after = message.judged(verdict, at=now)
            if verdict.action is Action.SEND:
                assert phone is not None
                if each.order_version != message.order_version:
                    with suppress(NotFound):  # deleted this very moment
                        order = await uow.orders.get(message.order_id)
                        after = after.rewritten(order, customer, policy=self._policy)
                after = after.started(to=phone, at=now)
                times.append(now)
                spending = spending.started(after.segments)
            judged.append(after)
        return judged

    async def _spending(self, uow: UnitOfWork, *, now: datetime) -> Spending:
        if not self._policy.has_budget:
            return Spending()
        local = now.astimezone(self._policy.zone)
        # Where the clock shows the first hour twice, the day begins with the earlier one.
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        # A whole month is looked at only by who has a budget for it.
        first = midnight if self._policy.budget_monthly is None else midnight.replace(day=1)
        return await uow.notifications.spending(
            currency=self._currency,
            today=midnight.astimezone(now.tzinfo),
            month=first.astimezone(now.tzinfo),
        )

    async def _take_back(self, not_begun: Mapping[NotificationId, Notification]) -> None:
        now = self._clock.now()
        try:
            async with self._storage() as uow:
                rows = await uow.notifications.get_many(list(not_begun), lock="update")
                # A sweep may have taken them for dead; they are the sweep's then.
                again = [
                    row.taken_back(at=now)
                    for row in rows
                    if row.status is SmsStatus.SENDING
                    and row.attempts == not_begun[row.id].attempts
                ]
                await uow.notifications.save(*again)
                await uow.commit()
        except Exception:
            # They stay `sending` until the sweep.
            log.exception("texts that had not begun were not taken back")
        else:
            self._count(again)

    async def _hand_over(
        self, message: Notification, not_begun: dict[NotificationId, Notification]
    ) -> Outcome:
        assert message.to is not None
        assert message.text is not None
        trace.carry_on(message.request_id, message.traceparent, message.tracestate)
        async with self._slots:
            del not_begun[message.id]
            try:
                return _outcome(
                    await self._gateway.send(
                        Sms(id=message.id, to=message.to.e164, text=message.text)
                    )
                )
            except Exception:
                # A gateway adapter answers with values; one that does not may have sent it.
                log.exception("the gateway adapter failed", extra={"notification": message.id})
                return UnknownOutcome(cause="adapter_error")

    async def _deliver_in_turn(
        self, messages: Sequence[Notification], not_begun: dict[NotificationId, Notification]
    ) -> None:
        """Those about one order, which mostly became due together: shipped before delivered."""
        for message in messages:
            await self._deliver(message, not_begun)

    async def _deliver(
        self, message: Notification, not_begun: dict[NotificationId, Notification]
    ) -> None:
        self._under_way += 1
        try:
            outcome = await self._hand_over(message, not_begun)
        finally:
            self._under_way -= 1
        await self._keep(message, outcome)

    async def _keep(self, message: Notification, outcome: Outcome) -> None:
        """Keep an outcome, in one unit of work with those that come meanwhile."""
        mine = self._results
        mine.results.append((message, outcome))
        async with self._keeping:
            if mine.over:
                return
            if self._under_way and self._gather_s:
                await asyncio.sleep(self._gather_s)
            if self._results is mine:
                self._results = _Results()
            try:
                await self._settle_in_time(mine.results)
            except Exception:
                # The others must not suffer; these stay `sending` until the sweep.
                log.exception("outcomes were not kept", extra={"messages": len(mine.results)})
            mine.over = True  # not when cancelled: then the next of them keeps all

    async def _settle_in_time(self, results: Sequence[tuple[Notification, Outcome]]) -> None:
        for pause in self._keep_again_after:
            try:
                return await self._settle(results)
            except Unavailable:
                await asyncio.sleep(pause.total_seconds())
        return await self._settle(results)

    async def _settle(self, results: Sequence[tuple[Notification, Outcome]]) -> None:
        now = self._clock.now()
        async with self._storage() as uow:
            rows = await uow.notifications.get_many(
                [message.id for message, _ in results], lock="update"
            )
            current = {row.id: row for row in rows}
            accepted = [
                outcome.provider_id for _, outcome in results if isinstance(outcome, Accepted)
            ]
            early: dict[str, list[DeliveryReport]] = {}
            for report in await uow.notifications.kept_reports(accepted) if accepted else ():
                early.setdefault(report.provider_id, []).append(report)
            settled: list[Notification] = []
            lessons: list[tuple[Notification, Reachability | None]] = []
            for message, outcome in results:
                after = current[message.id]
                # Someone else may have settled it: a sweep that took us for dead, a report.
                same_attempt = after.attempts == message.attempts
                if same_attempt and after.status in (SmsStatus.SENDING, SmsStatus.UNKNOWN):
                    after = after.settled(
                        outcome,
                        policy=self._policy,
                        jitter=self._randomness.fraction(),
                        at=now,
                    )
                if isinstance(outcome, Accepted):
                    for report in early.get(outcome.provider_id, ()):
                        lessons.append((after, after.lesson_of(report)))
                        after = after.reported(report)
                elif isinstance(outcome, RefusedSms) and outcome.kind is RefusalKind.BLOCKED:
                    lessons.append((message, Reachability.BLOCKED))
                if after is not current[message.id]:
                    settled.append(after)
            if settled:
                await uow.notifications.save(*settled)
            # Always in the same order, so that no two wait for each other's customers.
            for message, taught in sorted(lessons, key=lambda lesson: lesson[0].customer_id):
                await self._learn(uow, message, taught)
            await self._pause_or_resume(uow, results, now=now)
            await uow.commit()
        self._count(settled)
        for message in settled:
            if (cost := message.cost) is not None and current[message.id].cost is None:
                self._metrics.sms_cost(cost.currency, cost.units)
            log.info(
                "a text message was handed over",
                extra={
                    "notification": message.id,
                    "status": message.status,
                    "attempt": message.attempts,
                    "outcome": message.outcome_code,
                    **_cause_of(message),
                },
            )

    async def _pause_or_resume(
        self, uow: UnitOfWork, results: Sequence[tuple[Notification, Outcome]], *, now: datetime
    ) -> None:
        pause = await uow.notifications.pause()
        trouble = next(
            (
                outcome
                for _, outcome in results
                if isinstance(outcome, RefusedSms) and outcome.kind in _PAUSING
            ),
            None,
        )
        if trouble is not None:
            since = now if pause is None else pause.since
            until = now + self._policy.pause
            await uow.notifications.set_pause(
                Pause(kind=trouble.kind, code=trouble.code, until=until, since=since)
            )
            log.error("the gateway refuses our account or sender", extra={"code": trouble.code})
        elif pause is not None and any(
            # Texts that were on their way when the trouble began prove nothing.
            isinstance(outcome, Accepted)
            and message.handed_at is not None
            and message.handed_at > pause.since
            for message, outcome in results
        ):
            await uow.notifications.set_pause(None)
            self._jobs.wake()

    # --- what the gateway tells later ------------------------------------------------------------

    async def record_report(self, report: DeliveryReport) -> None:
        """Keep a delivery report and what it means; a repeat changes nothing.

        A report with an unknown id settles the one `unknown` message to the same phone of the
        last 24 hours, if there is exactly one and no text to that phone is under way; else it
        is kept until the sweep finds that the id became known, or that this is so.
        """
        after: Notification | None = None
        async with self._storage() as uow:
            message = await uow.notifications.by_provider_id(report.provider_id)
            if message is None and report.report is not None:
                message = await self._whose(uow, report)
            is_new = await uow.notifications.keep_report(report, matched=message is not None)
            if is_new and message is not None:
                after = await self._heed(uow, message, report)
            await uow.commit()
        if report.report is None:
            log.warning("a delivery report with an unknown word", extra={"word": report.word[:40]})
        if message is not None and is_new:
            log.info(
                "a delivery report was taken",
                extra={
                    "notification": message.id,
                    "status": (after or message).status,
                    "callback_request_id": trace.request_id_var.get(),
                    **_cause_of(message),
                },
            )
        if after is not None:
            self._count([after])

    async def _whose(self, uow: UnitOfWork, report: DeliveryReport) -> Notification | None:
        after = report.received_at - REPORT_WINDOW
        # One under way counts, too: nobody knows its id before its answer.
        possible = await uow.notifications.open_to(report.phone, handed_after=after)
        if len(possible) != 1 or possible[0].status is not SmsStatus.UNKNOWN:
            return None
        # One that was under way a moment ago may just have been settled.
        return await uow.notifications.by_provider_id(report.provider_id) or possible[0]

    async def _heed(
        self, uow: UnitOfWork, message: Notification, report: DeliveryReport
    ) -> Notification | None:
        """Keep what a report says about a message; the message, if that changed it."""
        await self._learn(uow, message, message.lesson_of(report))
        after = message.reported(report)
        if after is message:
            return None
        await uow.notifications.save(after)
        return after

    async def _heed_kept(
        self, uow: UnitOfWork, *, now: datetime, most: int
    ) -> Sequence[Notification]:
        """Keep what reports say whose message is known by now; the messages as each left them."""
        changed: list[Notification] = []
        late = await uow.notifications.overtaken(most=most)
        for report in await uow.notifications.kept_reports(late) if late else ():
            message = await uow.notifications.by_provider_id(report.provider_id)
            if message is not None and (after := await self._heed(uow, message, report)):
                changed.append(after)
        waited = now - REPORT_WINDOW
        for report in await uow.notifications.unclaimed(handed_after=waited, most=most):
            if (message := await self._whose(uow, report)) is None:
                continue
            for each in await uow.notifications.kept_reports([report.provider_id]):
                if after := await self._heed(uow, message, each):
                    message = after
                    changed.append(after)
        return changed

    async def _learn(
        self, uow: UnitOfWork, message: Notification, taught: Reachability | None
    ) -> None:
        if taught is not None:
            await learn_reachability(uow, message.customer_id, taught, phone=message.to)

    def _count(self, messages: Iterable[Notification]) -> None:
        for message in messages:
            self._metrics.sms(message.event, message.status)

    # --- what people ask for ---------------------------------------------------------------------

    async def get(self, notification_id: NotificationId, *, by: Caller) -> Notification:
        """One message. Raises: InsufficientScope, NotFound."""
        by.require(Scope.ORDERS_READ)
        async with self._storage(reading="each") as uow:
            return await uow.notifications.get(notification_id)

    async def list(
        self, where: NotificationFilter, page: PageRequest, *, by: Caller
    ) -> Page[Notification]:
        """A page of messages. Raises: InsufficientScope."""
        by.require(Scope.ORDERS_READ)
        async with self._storage(reading="each") as uow:
            return await uow.notifications.list(where, page)

    async def resend(
        self,
        order_id: OrderId,
        *,
        event: str | None = None,
        by: Caller,
        once: Once[Notification] | None = None,
    ) -> Notification:
        """Text an order's customer again because a person asks for it.

        Quiet hours and duplicates do not apply; opt-out, budget and 1 a minute, 5 a day do.

        Raises:
            InsufficientScope, NotFound, Invalid, NoSmsForStatus, CustomerErased,
            CustomerOptedOut, SmsBudgetExhausted, ResendThrottled; with `once` also AlreadyDone
            and the refusals of a key.
        """
        by.require(Scope.NOTIFICATIONS_WRITE)
        problems = Problems()
        wanted = problems.check(
            "event",
            lambda: None if event is None else text.choice(event, SmsEvent),
            default=None,
        )
        now = self._clock.now()
        async with self._storage() as uow:
            await idempotency.begin(once, uow, by=by, now=now)
            order = await uow.orders.get(order_id, lock="update")
            problems.raise_if_any()
            about = wanted or order.default_sms_event
            if about not in order.reached_events:
                raise NoSmsForStatus(order.status, order.reached_events)
            customer = await uow.customers.get(order.customer_id)
            if customer.erased_at is not None:
                raise CustomerErased
            if customer.sms_opt_out or customer.reachability is Reachability.BLOCKED:
                raise CustomerOptedOut
            spending = await self._spending(uow, now=now)
            facts = Facts(
                now=now,
                event=about,
                phone=customer.phone,
                spent_today=spending.today,
                spent_this_month=spending.this_month,
            )
            if (free_at := budget_free_at(facts, self._policy)) is not None:
                raise SmsBudgetExhausted(retry_after=free_at - now)
            resent_at = await uow.notifications.resent_at(order_id, after=now - timedelta(hours=24))
            if (free_at := resend_free_at(resent_at, now=now)) is not None:
                raise ResendThrottled(retry_after=free_at - now)
            newest = await uow.notifications.newest(order_id)
            assert newest is not None
            message = Notification.compose(
                id=NotificationId(self._randomness.uuid()),
                event=about,
                order=order,
                customer=customer,
                policy=self._policy,
                resend_of=newest.id,
                request_id=by.request_id,
                **trace.kept(),
                at=now,
            )
            await uow.notifications.add(message)
            await self._record(uow, "resent", message, by)
            await idempotency.finish(once, uow, message, by=by, now=now)
            await uow.commit()
        self._count([message])
        self._jobs.wake()
        return message

    async def replay(self, ids: Collection[NotificationId], *, by: Caller) -> int:
        """Queue dead messages again with all their attempts; how many.

        Raises:
            InsufficientScope, NotFound, NotificationNotDead: nothing is queued then.
        """
        by.require(Scope.NOTIFICATIONS_WRITE)
        now = self._clock.now()
        async with self._storage() as uow:
            messages = [
                (await uow.notifications.get(id_, lock="update")).replayed(at=now)
                for id_ in sorted(set(ids))
            ]
            if messages:
                await uow.notifications.save(*messages)
            for message in messages:
                await self._record(uow, "replayed", message, by)
            await uow.commit()
        self._count(messages)
        self._jobs.wake()
        return len(messages)

    async def dead(self, *, by: Caller) -> Sequence[NotificationId]:
        """The messages whose retries are spent. Raises: InsufficientScope."""
        by.require(Scope.ORDERS_READ)
        async with self._storage(reading=True) as uow:
            return await uow.notifications.ids_of_dead()

    async def _record(self, uow: UnitOfWork, what: str, message: Notification, by: Caller) -> None:
        data: dict[str, object] = {"event": message.event, "order": str(message.order_id)}
        await uow.events.add(
            Event(
                id=self._randomness.uuid(),
                at=message.updated_at,
                actor=by.principal,
                action=f"notification.{what}",
                subject="notification",
                subject_id=message.id,
                data=data,
                request_id=by.request_id,
            )
        )


def _outcome(answer: Outcome) -> Outcome:
    """What an adapter answered; anything else would spoil what is kept together with it."""
    if not isinstance(answer, Outcome):
        raise TypeError(f"send() must give an Outcome, not {type(answer).__name__}")
    return answer


def _cause_of(message: Notification) -> dict[str, object]:
    """What a line about a message says besides: its order, and the request that once caused it."""
    found = trace.TraceContext.parse(message.traceparent)
    return {
        "order": message.order_id,
        "request_id": message.request_id,
        "trace_id": None if found is None else found.trace_id,
    }
