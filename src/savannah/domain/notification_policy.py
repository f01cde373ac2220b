"""Whether a text is sent, skipped or waits: an ordered list of rules over plain facts.

Nothing here talks to a gateway or reads a clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from types import NoneType
from typing import Final
from zoneinfo import ZoneInfo

from savannah.domain.phone import PhoneNumber
from savannah.domain.sms_text import SmsEvent


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What texts cost since a local day and a local month began, as far as that is known.

    Amounts are in ten-thousandths of one currency.

    Attributes:
        quoted_today: what the gateway has quoted, likewise `quoted_this_month`.
        open_today: segments of texts that may cost something nobody has quoted: those under way,
            and those whose answer was lost; likewise `open_this_month`.
        price: of one segment, by the newest quote; 0 before the first.
    """

    quoted_today: int = 0
    quoted_this_month: int = 0
    open_today: int = 0
    open_this_month: int = 0
    price: int = 0

    @property
    def today(self) -> int:
        return self.quoted_today + self.open_today * self.price

    @property
    def this_month(self) -> int:
        return self.quoted_this_month + self.open_this_month * self.price

    def started(self, segments: int) -> Spending:
        """With one more text under way."""
        return Spending(
            quoted_today=self.quoted_today,
            quoted_this_month=self.quoted_this_month,
            open_today=self.open_today + segments,
            open_this_month=self.open_this_month + segments,
            price=self.price,
        )


def price_of_segment(units: int, segments: int) -> int:
    """What a text that cost so much says of one segment, rounded up."""
    return -(-units // max(1, segments))


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
    return Action.DEFER, DeferReason.BUDGET, _awake(until, facts, policy)


def _phone_limit(facts: Facts, policy: Policy) -> _Decision:
    limit = policy.phone_limit
    if limit is None or facts.texted_at is None:
        return None
    recent = sorted(at for at in facts.texted_at if at > facts.now - limit.window)
    if len(recent) < limit.count:
        return None
    until = recent[-limit.count] + limit.window
    return Action.DEFER, DeferReason.PHONE_LIMIT, _awake(until, facts, policy)


def _quiet_hours(facts: Facts, policy: Policy) -> _Decision:
    if facts.event is SmsEvent.ORDER_CREATED:  # the customer is at the desk, awake
        return None
    until = _awake(facts.now, facts, policy)
    return None if until == facts.now else (Action.DEFER, DeferReason.QUIET_HOURS, until)


def _awake(moment: datetime, facts: Facts, policy: Policy) -> datetime:
    """The first moment from then on that is not in the recipient's quiet hours.

    For what a person asks for any moment will do. A new order's text that is put off until then
    is no exception: its customer has left the desk.
    """
    if policy.quiet_hours is None or facts.asked_by_human:
        return moment
    own_zone = facts.phone.time_zone if facts.phone is not None else None
    zone = ZoneInfo(own_zone) if own_zone is not None else policy.zone
    return policy.quiet_hours.ends_after(moment, zone) or moment


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
