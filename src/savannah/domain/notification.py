"""One text message to a customer: whether it is sent, its life cycle, and its retries.

The policy is a list of rules over plain facts; the life cycle is methods that return the next
`Notification`. Nothing here talks to a gateway or reads a clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from types import NoneType
from typing import Final, Self
from uuid import UUID
from zoneinfo import ZoneInfo

from savannah.domain import sms_text
from savannah.domain.customer import Customer, CustomerId, Reachability
from savannah.domain.errors import NotificationNotDead
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


class SkipReason(StrEnum):
    """Why a message was never sent."""

    ORDER_DELETED = "order_deleted"
    CUSTOMER_ERASED = "customer_erased"
    SUPPRESSED_BY_USER = "suppressed_by_user"
    OPTED_OUT = "opted_out"
    BLOCKED_BY_NETWORK = "blocked_by_network"
    DUPLICATE = "duplicate"
    BUDGET = "sms_budget_exhausted"


class DeferReason(StrEnum):
    """Why a message waits."""

    BUDGET = "sms_budget_exhausted"
    PHONE_LIMIT = "phone_limit"
    QUIET_HOURS = "quiet_hours"
    PAUSED = "gateway_paused"
    RETRY = "retry"


class Action(StrEnum):
    SEND = "send"
    SKIP = "skip"
    DEFER = "defer"


# --- what a gateway can answer -------------------------------------------------------------------


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


# --- the policy ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so long a time, written `20/h`, `600/min`, `5/15min`.

    Raises: ValueError, when it allows nothing.
    """

    count: int
    window: timedelta

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("count: must be 1 or more")
        if self.window <= timedelta(0):
            raise ValueError("window: must be longer than nothing")

    @classmethod
    def parse(cls, typed: str) -> Rate:
        """Raises: ValueError, when it is not written that way or allows nothing."""
        match = re.fullmatch(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,3})?(s|min|h|d)", typed.strip())
        if match is None:
            raise ValueError("write it as COUNT/PERIOD, such as 20/h, 600/min or 5/15min")
        unit = {"s": 1, "min": 60, "h": 3600, "d": 86400}[match[3]]
        return cls(int(match[1]), timedelta(seconds=int(match[2] or 1) * unit))

    def __str__(self) -> str:
        seconds = int(self.window.total_seconds())
        units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
        unit, size = next(each for each in units if seconds % each[1] == 0)
        many = seconds // size
        return f"{self.count}/{many if many > 1 else ''}{unit}"


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Local hours in which no text should ring, `21:00-07:00`; may pass midnight.

    Raises: ValueError, when they are empty or have a time zone: the recipient's is taken.
    """

    start: time
    end: time

    def __post_init__(self) -> None:
        if self.start.tzinfo is not None or self.end.tzinfo is not None:
            raise ValueError("start, end: must have no time zone")
        if self.start == self.end:
            raise ValueError("start, end: must differ")

    @classmethod
    def parse(cls, typed: str) -> QuietHours:
        """Raises: ValueError, when it is not written `HH:MM-HH:MM` or is empty."""
        match = re.fullmatch(r"(\d\d):(\d\d)-(\d\d):(\d\d)", typed.strip(), re.ASCII)
        if match is None:
            raise ValueError("write it as HH:MM-HH:MM, such as 21:00-07:00")
        start = time(int(match[1]), int(match[2]))
        end = time(int(match[3]), int(match[4]))
        return cls(start, end)

    def ends_after(self, moment: datetime, zone: ZoneInfo) -> datetime | None:
        """When the quiet around `moment` ends, or None when it is not quiet."""
        local = moment.astimezone(zone)
        clock = local.time()
        if self.start < self.end:
            quiet, tomorrow = self.start <= clock < self.end, False
        else:
            quiet = clock >= self.start or clock < self.end
            tomorrow = clock >= self.start
        if not quiet:
            return None
        day = local.date() + timedelta(days=1 if tomorrow else 0)
        end = datetime.combine(day, self.end.replace(fold=0), zone).astimezone(UTC)
        if end <= moment:  # the clock was set back over the end, which comes a second time
            end = datetime.combine(day, self.end.replace(fold=1), zone).astimezone(UTC)
        return end


HOME_ZONE: Final = ZoneInfo("Africa/Nairobi")


class BudgetAction(StrEnum):
    """What happens to texts once the budget is used up."""

    DEFER = "defer"
    SKIP = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The business's settings for texts. Budgets in ten-thousandths of its default currency.

    Raises: ValueError or TypeError, when a setting makes no sense; it names the setting.
    """

    quiet_hours: QuietHours | None = None
    phone_limit: Rate | None = Rate(20, timedelta(hours=1))
    budget_daily: int | None = None
    budget_monthly: int | None = None
    budget_action: BudgetAction = BudgetAction.DEFER
    max_segments: int = 3
    max_attempts: int = 6
    retry_base: timedelta = timedelta(seconds=15)
    pause: timedelta = timedelta(seconds=300)
    unknown_wait: timedelta = timedelta(seconds=600)
    resend_unknown: bool = False
    zone: ZoneInfo = HOME_ZONE

    def __post_init__(self) -> None:
        # Told at once: most of these are first looked at when a text is due, days later.
        for name, kinds in _POLICY_KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds):
                names = " or ".join(kind.__name__ for kind in kinds)
                raise TypeError(f"{name}: must be {names}, not {type(value).__name__}")
        for name, least in _POLICY_LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: must be {least} or more")

    @property
    def has_budget(self) -> bool:
        return self.budget_daily is not None or self.budget_monthly is not None


_POLICY_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "quiet_hours": (QuietHours, NoneType),
    "phone_limit": (Rate, NoneType),
    "budget_daily": (int, NoneType),
    "budget_monthly": (int, NoneType),
    "budget_action": (BudgetAction,),
    "max_segments": (int,),
    "max_attempts": (int,),
    "retry_base": (timedelta,),
    "pause": (timedelta,),
    "unknown_wait": (timedelta,),
    "zone": (ZoneInfo,),
}
_POLICY_LEAST: Final[dict[str, int | timedelta]] = {
    "budget_daily": 0,
    "budget_monthly": 0,
    "max_segments": 1,
    "max_attempts": 1,
    "retry_base": timedelta(0),
    "pause": timedelta(0),
    "unknown_wait": timedelta(0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the rules look at.

    Attributes:
        texted_at: when texts were handed over to this phone within the phone limit's window;
            None when that is looked up later, just before the message is handed over.
        spent_today: in ten-thousandths of the default currency, likewise `spent_this_month`;
            None when that is looked up later.
        asked_by_human: a resend: quiet hours and duplicates do not apply.
    """

    now: datetime
    event: SmsEvent
    phone: PhoneNumber | None
    notify: bool = True
    order_deleted: bool = False
    customer_erased: bool = False
    opted_out: bool = False
    blocked: bool = False
    already_handled: bool = False
    asked_by_human: bool = False
    texted_at: Sequence[datetime] | None = None
    spent_today: int | None = None
    spent_this_month: int | None = None


class RuleResult(StrEnum):
    PASSED = "passed"
    MATCHED = "matched"
    LATER = "later"  # what it looks at is known only when the message is due


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    rule: str
    result: RuleResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Send, skip or wait; the first rule that matched decided, all are on record."""

    action: Action
    reason: SkipReason | DeferReason | None = None
    until: datetime | None = None
    rules: tuple[RuleOutcome, ...] = ()


_Decision = tuple[Action, SkipReason | DeferReason, datetime | None] | None
_Rule = Callable[[Facts, Policy], _Decision]


def _skip(reason: SkipReason, *, when: Callable[[Facts], bool]) -> _Rule:
    return lambda facts, _: (Action.SKIP, reason, None) if when(facts) else None


def _budget(facts: Facts, policy: Policy) -> _Decision:
    until = budget_free_at(facts, policy)
    if until is None:
        return None
    if policy.budget_action is BudgetAction.SKIP:
        return Action.SKIP, SkipReason.BUDGET, None
    return Action.DEFER, DeferReason.BUDGET, until


def _phone_limit(facts: Facts, policy: Policy) -> _Decision:
    limit = policy.phone_limit
    if limit is None or facts.texted_at is None:
        return None
    recent = sorted(at for at in facts.texted_at if at > facts.now - limit.window)
    if len(recent) < limit.count:
        return None
    return Action.DEFER, DeferReason.PHONE_LIMIT, recent[-limit.count] + limit.window


def _quiet_hours(facts: Facts, policy: Policy) -> _Decision:
    if policy.quiet_hours is None or facts.asked_by_human:
        return None
    if facts.event is SmsEvent.ORDER_CREATED:  # the customer is at the desk, awake
        return None
    own_zone = facts.phone.time_zone if facts.phone is not None else None
    zone = ZoneInfo(own_zone) if own_zone is not None else policy.zone
    until = policy.quiet_hours.ends_after(facts.now, zone)
    return None if until is None else (Action.DEFER, DeferReason.QUIET_HOURS, until)


RULES: Final[tuple[tuple[str, _Rule], ...]] = (
    ("order_deleted", _skip(SkipReason.ORDER_DELETED, when=lambda facts: facts.order_deleted)),
    (
        "customer_erased",
        _skip(
            SkipReason.CUSTOMER_ERASED,
            when=lambda facts: facts.customer_erased or facts.phone is None,
        ),
    ),
    ("notify", _skip(SkipReason.SUPPRESSED_BY_USER, when=lambda facts: not facts.notify)),
    ("opted_out", _skip(SkipReason.OPTED_OUT, when=lambda facts: facts.opted_out)),
    ("blocked", _skip(SkipReason.BLOCKED_BY_NETWORK, when=lambda facts: facts.blocked)),
    (
        "duplicate",
        _skip(
            SkipReason.DUPLICATE,
            when=lambda facts: facts.already_handled and not facts.asked_by_human,
        ),
    ),
    ("budget", _budget),
    ("phone_limit", _phone_limit),
    ("quiet_hours", _quiet_hours),
)


def decide(facts: Facts, policy: Policy) -> Verdict:
    """The policy's verdict: the first rule that matches decides, and every rule is on record."""
    decided: _Decision = None
    outcomes: list[RuleOutcome] = []
    later = {
        "budget": policy.has_budget and facts.spent_today is None,
        "phone_limit": policy.phone_limit is not None and facts.texted_at is None,
    }
    for name, rule in RULES:
        decision = rule(facts, policy)
        unmatched = RuleResult.LATER if later.get(name) else RuleResult.PASSED
        result = unmatched if decision is None else RuleResult.MATCHED
        outcomes.append(RuleOutcome(name, result))
        decided = decided or decision
    action, reason, until = decided or (Action.SEND, None, None)
    return Verdict(action=action, reason=reason, until=until, rules=tuple(outcomes))


def budget_free_at(facts: Facts, policy: Policy) -> datetime | None:
    """When there is budget again, or None when there is some now (or nobody has looked yet)."""
    local = facts.now.astimezone(policy.zone)
    month = local.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if _reached(facts.spent_this_month, policy.budget_monthly):
        return (month + timedelta(days=32)).replace(day=1).astimezone(facts.now.tzinfo)
    if _reached(facts.spent_today, policy.budget_daily):
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        return (midnight + timedelta(days=1)).astimezone(facts.now.tzinfo)
    return None


def _reached(spent: int | None, budget: int | None) -> bool:
    return spent is not None and budget is not None and spent >= budget


def retry_delay(attempt: int, *, base: timedelta, jitter: float) -> timedelta:
    """How long to wait after failed attempt number `attempt` (1, 2, …).

    Four times longer each time, up to half as much again by `jitter` (0 to 1): with the default
    15 s, six attempts spread over about two hours.
    """
    return base * 4.0 ** min(attempt - 1, 8) * (1 + jitter / 2)


def resend_free_at(resent_at: Collection[datetime], *, now: datetime) -> datetime | None:
    """When a person may send an order's text again, or None for now: 1 a minute, 5 a day."""
    times = sorted(resent_at)
    waits = [
        times[-most] + window
        for most, window in ((1, timedelta(seconds=60)), (5, timedelta(hours=24)))
        if len(times) >= most and times[-most] + window > now
    ]
    return max(waits, default=None)


# --- the message ---------------------------------------------------------------------------------


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
