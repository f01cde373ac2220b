"""One text message to a customer and its life: verdicts, the gateway's answers, delivery reports.

Each step is a method that returns the next `Notification`. Nothing here talks to a gateway or reads
a clock; whether a message is sent at all is the business of `notification_policy`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Final, Self
from uuid import UUID
from zoneinfo import ZoneInfo

from savannah.domain import sms_text
from savannah.domain.customer import Customer, CustomerId, Reachability
from savannah.domain.errors import NotificationNotDead
from savannah.domain.notification_policy import (
    Action,
    DeferReason,
    Facts,
    Policy,
    RuleOutcome,
    SkipReason,
    Verdict,
    decide,
    retry_delay,
)
from savannah.domain.order import NotificationId, Order, OrderId
from savannah.domain.phone import PhoneNumber
from savannah.domain.sms_text import Encoding, Locale, SmsEvent

COST_UNITS: Final = 10_000
LAGOS: Final = ZoneInfo("Africa/Lagos")
LAGOS_MORNING: Final = time(8)


class SmsStatus(StrEnum):
    """Where a message is in its life."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    DEFERRED = "deferred"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"
    DEAD = "dead"


WAITING: Final = frozenset({SmsStatus.QUEUED, SmsStatus.DEFERRED})
HANDED_OVER: Final = frozenset({SmsStatus.SENT, SmsStatus.DELIVERED, SmsStatus.FAILED})
OPEN: Final = frozenset({SmsStatus.SENDING, SmsStatus.UNKNOWN})  # it may have left


class RefusalKind(StrEnum):
    """What a refusal is about, and with that what follows.

    Source: Africa's Talking recipient status codes; classes by practice of public adapters.
    """

    NUMBER = "number"  # this number will never work: the message has failed
    BLOCKED = "blocked"  # the subscriber blocked us: failed, and remembered
    ACCOUNT = "account"  # balance or key: everything waits, no attempt is spent
    SENDER = "sender"  # our sender ID: everything waits, each probe spends an attempt
    TEMPORARY = "temporary"  # the gateway's own trouble: retried with backoff
    NIGHT = "night"  # Nigerian do-not-disturb hours: waits for the morning in Lagos


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A price in ten-thousandths of a currency, as gateways quote it."""

    currency: str
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The gateway took the message; `provider_id` is what its reports will name."""

    provider_id: str
    cost: Cost | None = None
    segments: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedSms:
    """The message surely did not leave. `code` is the gateway's word or number for the reason."""

    kind: RefusalKind
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownOutcome:
    """The message may have left; sending it again blindly could send it twice."""

    cause: str


Outcome = Accepted | RefusedSms | UnknownOutcome


class Report(StrEnum):
    """What a delivery report says, whatever the gateway's word for it."""

    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryReport:
    """A report as it came. `report` is None for a word we do not know: kept, changes nothing.

    `phone` is E.164, and not in the `repr`; `received_at` is aware.
    """

    provider_id: str
    report: Report | None
    word: str
    phone: str = field(repr=False)
    network_code: str | None = None
    failure_reason: str | None = None
    received_at: datetime

    def __post_init__(self) -> None:
        if self.received_at.tzinfo is None:
            raise ValueError("received_at: must know its time zone")

    @property
    def reachability(self) -> Reachability | None:
        """What the report teaches about the phone, if anything."""
        if self.report is Report.DELIVERED:
            return Reachability.REACHABLE
        if self.report is not Report.FAILED:
            return None
        # Spellings vary between the gateway's tables: UserInBlackList, UserInBlacklist.
        reason = f"{self.failure_reason or ''} {self.word}".casefold()
        if "blacklist" in reason:
            return Reachability.BLOCKED
        unreachable = ("absentsubscriber", "userdoesnotexist", "userisinactive", "notnetwork")
        return Reachability.UNREACHABLE if any(word in reason for word in unreachable) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One message about one event of one order; the stored row is its own outbox.

    Attributes:
        to: the phone when it was queued; the one valid when it is sent replaces it.
        text: what is sent, and not in the `repr`; written anew when its order was edited before it
            is. None once the customer was erased.
        due_at: not handed over before this; meaningful while it waits.
        outcome_code: the gateway's word for the last refusal, failure or unknown outcome.
        handed_at: when the current attempt began.
    """

    id: NotificationId
    order_id: OrderId
    customer_id: CustomerId
    event: SmsEvent
    dedupe_key: str
    to: PhoneNumber | None
    locale: Locale
    text: str | None = field(repr=False)
    encoding: Encoding
    segments: int
    status: SmsStatus
    skip_reason: SkipReason | None = None
    defer_reason: DeferReason | None = None
    rules: tuple[RuleOutcome, ...] = ()
    attempts: int = 0
    due_at: datetime
    handed_at: datetime | None = None
    sent_at: datetime | None = None
    delivered_at: datetime | None = None
    provider_id: str | None = None
    cost: Cost | None = None
    outcome_code: str | None = None
    resend_of: NotificationId | None = None
    request_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def compose(
        cls,
        *,
        id: NotificationId,
        event: SmsEvent,
        order: Order,
        customer: Customer,
        policy: Policy,
        notify: bool = True,
        already_handled: bool = False,
        resend_of: NotificationId | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
        at: datetime,
    ) -> Self:
        """The message about one event of an order, in the state its first verdict gives it.

        Budget and phone limit are judged later, just before it is handed over. A `resend_of`
        means that a person asked for it.
        """
        text = _text_about(event, order, customer, locale=customer.locale, policy=policy)
        size = sms_text.segment(text)
        key = dedupe_key(order.id, event, order.version)
        facts = Facts(
            now=at,
            event=event,
            phone=customer.phone,
            notify=notify,
            order_deleted=order.deleted_at is not None,
            customer_erased=customer.erased_at is not None,
            opted_out=customer.sms_opt_out,
            blocked=customer.reachability is Reachability.BLOCKED,
            already_handled=already_handled,
            asked_by_human=resend_of is not None,
        )
        fresh = cls(
            id=id,
            order_id=order.id,
            customer_id=customer.id,
            event=event,
            dedupe_key=key if resend_of is None and not already_handled else f"{key}:{id}",
            to=customer.phone,
            locale=customer.locale,
            text=text if customer.erased_at is None else None,
            encoding=size.encoding,
            segments=size.segments,
            status=SmsStatus.QUEUED,
            due_at=at,
            resend_of=resend_of,
            request_id=request_id,
            traceparent=traceparent,
            tracestate=tracestate,
            created_at=at,
            updated_at=at,
        )
        return fresh.judged(decide(facts, policy), at=at)

    @property
    def order_version(self) -> int:
        """The version of the order that the text was written about."""
        return int(self.dedupe_key.split(":")[2])

    def rewritten(self, order: Order, customer: Customer, *, policy: Policy) -> Self:
        """The message with a text about the order as it is now."""
        text = _text_about(self.event, order, customer, locale=self.locale, policy=policy)
        size = sms_text.segment(text)
        return replace(self, text=text, encoding=size.encoding, segments=size.segments)

    def judged(self, verdict: Verdict, *, at: datetime) -> Self:
        """The message under a verdict: still due, skipped for good, or waiting."""
        kept = replace(self, rules=verdict.rules)
        if verdict.action is Action.SKIP:
            assert isinstance(verdict.reason, SkipReason)
            return kept.skipped(verdict.reason, at=at)
        if verdict.action is Action.DEFER:
            assert isinstance(verdict.reason, DeferReason)
            assert verdict.until is not None
            return kept.deferred(verdict.reason, until=verdict.until, at=at)
        return kept

    def skipped(self, reason: SkipReason, *, at: datetime) -> Self:
        return replace(
            self, status=SmsStatus.SKIPPED, skip_reason=reason, defer_reason=None, updated_at=at
        )

    def deferred(self, reason: DeferReason, *, until: datetime, at: datetime) -> Self:
        return replace(
            self, status=SmsStatus.DEFERRED, defer_reason=reason, due_at=until, updated_at=at
        )

    def started(self, *, to: PhoneNumber, at: datetime) -> Self:
        """About to be handed to the gateway, with the phone valid now."""
        return replace(
            self,
            status=SmsStatus.SENDING,
            to=to,
            defer_reason=None,
            attempts=self.attempts + 1,
            handed_at=at,
            updated_at=at,
        )

    def taken_back(self, *, at: datetime) -> Self:
        """Due again at once: the gateway has surely not been asked."""
        return replace(
            self, status=SmsStatus.QUEUED, attempts=self.attempts - 1, due_at=at, updated_at=at
        )

    def settled(self, outcome: Outcome, *, policy: Policy, jitter: float, at: datetime) -> Self:
        """The message after the gateway's answer to the attempt under way."""
        if isinstance(outcome, Accepted):
            return replace(
                self,
                status=SmsStatus.SENT,
                provider_id=outcome.provider_id,
                cost=outcome.cost,
                segments=outcome.segments or self.segments,
                outcome_code=None,
                sent_at=at,
                updated_at=at,
            )
        if isinstance(outcome, UnknownOutcome):
            return self.lost_sight(outcome.cause, at=at)
        refused = replace(self, outcome_code=outcome.code)
        if outcome.kind in (RefusalKind.NUMBER, RefusalKind.BLOCKED):
            return replace(refused, status=SmsStatus.FAILED, updated_at=at)
        unspent = replace(refused, attempts=self.attempts - 1)
        if outcome.kind is RefusalKind.ACCOUNT:
            return unspent.deferred(DeferReason.PAUSED, until=at + policy.pause, at=at)
        if outcome.kind is RefusalKind.NIGHT:
            return unspent.deferred(DeferReason.QUIET_HOURS, until=lagos_morning(at), at=at)
        if self.attempts >= policy.max_attempts:
            return replace(refused, status=SmsStatus.DEAD, updated_at=at)
        if outcome.kind is RefusalKind.SENDER:
            return refused.deferred(DeferReason.PAUSED, until=at + policy.pause, at=at)
        delay = retry_delay(self.attempts, base=policy.retry_base, jitter=jitter)
        return refused.deferred(DeferReason.RETRY, until=at + delay, at=at)

    def lost_sight(self, cause: str, *, at: datetime) -> Self:
        """Nobody knows whether the attempt under way went out."""
        return replace(self, status=SmsStatus.UNKNOWN, outcome_code=cause, updated_at=at)

    def retried_blindly(self, *, policy: Policy, at: datetime) -> Self:
        """An unknown message queued again, as `SMS_UNKNOWN=resend` asks, or dead of retries."""
        if self.attempts >= policy.max_attempts:
            return replace(self, status=SmsStatus.DEAD, updated_at=at)
        return replace(self, status=SmsStatus.QUEUED, due_at=at, updated_at=at)

    def replayed(self, *, at: datetime) -> Self:
        """A dead message queued again with all its attempts.

        Raises:
            NotificationNotDead: it is in another state.
        """
        if self.status is not SmsStatus.DEAD:
            raise NotificationNotDead(self.status)
        return replace(self, status=SmsStatus.QUEUED, attempts=0, due_at=at, updated_at=at)

    def reported(self, report: DeliveryReport) -> Self:
        """The message after a delivery report; the same object when it changes nothing.

        Sticky states stay, whatever the order and repetition of reports, except that a failed
        message may still turn out to be delivered.
        """
        at = report.received_at
        match report.report, self.status:
            case (
                Report.DELIVERED,
                SmsStatus.SENT | SmsStatus.UNKNOWN | SmsStatus.FAILED,
            ):
                return replace(
                    self,
                    status=SmsStatus.DELIVERED,
                    provider_id=self.provider_id or report.provider_id,
                    sent_at=self.sent_at or self.handed_at,
                    delivered_at=at,
                    outcome_code=None,
                    updated_at=at,
                )
            case Report.FAILED, SmsStatus.SENT | SmsStatus.UNKNOWN:
                return replace(
                    self,
                    status=SmsStatus.FAILED,
                    provider_id=self.provider_id or report.provider_id,
                    sent_at=self.sent_at or self.handed_at,
                    outcome_code=report.failure_reason or report.word,
                    updated_at=at,
                )
            case Report.SENT, SmsStatus.UNKNOWN:
                return replace(
                    self,
                    status=SmsStatus.SENT,
                    provider_id=self.provider_id or report.provider_id,
                    sent_at=self.handed_at,
                    outcome_code=None,
                    updated_at=at,
                )
            case _:
                return self

    def lesson_of(self, report: DeliveryReport) -> Reachability | None:
        """What a report about this message, as it was before, teaches about its phone.

        One that a delivered message has failed is late, or wrong.
        """
        if self.status is SmsStatus.DELIVERED and report.report is Report.FAILED:
            return None
        return report.reachability


def lagos_morning(after: datetime) -> datetime:
    """The next 08:00 in Lagos, when promotional texts may go out again."""
    local = after.astimezone(LAGOS)
    morning = datetime.combine(local.date(), LAGOS_MORNING, LAGOS)
    if morning <= local:
        morning = datetime.combine(local.date() + timedelta(days=1), LAGOS_MORNING, LAGOS)
    return morning.astimezone(after.tzinfo)


def _text_about(
    event: SmsEvent, order: Order, customer: Customer, *, locale: Locale, policy: Policy
) -> str:
    return sms_text.render(
        event,
        locale,
        name=customer.name or "",
        order_number=order.number,
        item=order.item,
        quantity=order.quantity,
        total=order.total.text,
        currency=order.price.currency,
        max_segments=policy.max_segments,
    )


def dedupe_key(order_id: UUID, event: SmsEvent, version: int) -> str:
    """The key under which one event of one order version is texted once."""
    return f"{order_id}:{event}:{version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """The gateway's account or our sender is in trouble; one probe may go out at `until`."""

    kind: RefusalKind
    code: str
    until: datetime
    since: datetime = field(compare=False)
