"""Hypothesis strategies for Savannah's values: for people who test rules and adapters of their own.

Everything drawn is something Savannah itself could hold: orders are where transitions took them,
messages where outcomes and reports did. Needs the extra `testing`.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from savannah.domain import text
from savannah.domain.access import Caller, Role, Scope
from savannah.domain.customer import CODE_SYMBOLS, Customer, CustomerId, Reachability
from savannah.domain.money import AMOUNT_MAX_MINOR, DEFAULT_CURRENCIES, Money
from savannah.domain.notification import (
    COST_UNITS,
    WAITING,
    Accepted,
    Cost,
    DeliveryReport,
    Notification,
    Outcome,
    RefusalKind,
    RefusedSms,
    Report,
    SmsStatus,
    UnknownOutcome,
)
from savannah.domain.notification_policy import BudgetAction, Facts, Policy, QuietHours, Rate
from savannah.domain.order import (
    CROCKFORD,
    REFERENCE_SYMBOLS,
    TRANSITIONS,
    CancelReason,
    NotificationId,
    Order,
    OrderId,
    Status,
    Transition,
)
from savannah.domain.phone import PhoneNumber
from savannah.domain.sms_text import Locale, SmsEvent
from savannah.domain.text import NOTES_MAX

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_UUIDS: Final = st.uuids(version=4)

# Zones with and without daylight saving, east and west, with odd offsets and odd hours of change.
ZONES: Final = (
    "Africa/Nairobi",
    "Africa/Lagos",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "UTC",
)


def moments() -> SearchStrategy[datetime]:
    """Aware moments in UTC, within three years of `START`, to the microsecond."""
    naive = st.datetimes(
        (START - timedelta(days=1096)).replace(tzinfo=None),
        (START + timedelta(days=1096)).replace(tzinfo=None),
    )
    return naive.map(lambda moment: moment.replace(tzinfo=UTC))


def zones() -> SearchStrategy[ZoneInfo]:
    """Time zones, those that change their clocks among them."""
    return st.sampled_from(ZONES).map(ZoneInfo)


def texts(*, most: int, least: int = 1, multiline: bool = False) -> SearchStrategy[str]:
    """Text as it is stored: NFC, no outer blanks, `least` to `most` code points.

    Short ones, and some that come near `most`.
    """
    kept = "\n\t" if multiline else ""
    characters = st.characters(exclude_categories=("Cc", "Cs"), include_characters=kept)
    short = st.text(characters, min_size=least, max_size=min(most, 16))
    plain = st.text(string.ascii_letters, min_size=1, max_size=16)  # stays seven bits a letter
    word = st.one_of(st.text(characters, min_size=1, max_size=16), plain)
    long = st.builds(lambda word, times: (word * times)[:most], word, st.integers(2, most))
    widest = 3 * max(most, 16)  # NFC writes a character in at most three
    cleaned = (
        st.one_of(short, short, long)
        .filter(_unpiled)  # nobody has written, and nothing keeps, a pile of marks
        .map(lambda raw: text.clean(raw, most=widest, least=0, multiline=multiline))
        .filter(_unpiled)  # NFC can make two marks of one
    )
    return cleaned.filter(lambda clean: least <= len(clean) <= most)


def _unpiled(drawn: str) -> bool:
    return not text.is_piled(drawn)


def metadata() -> SearchStrategy[dict[str, str]]:
    """String pairs within their limits."""
    return st.dictionaries(texts(most=40), texts(most=500, least=0, multiline=True), max_size=2)


def emails() -> SearchStrategy[str]:
    """E-mail addresses in mixed case."""
    word = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)
    return st.builds("{}@{}.example".format, word, word)


# --- phones and money ----------------------------------------------------------------------------


def phone_numbers() -> SearchStrategy[PhoneNumber]:
    """Numbers that can receive texts: Kenyan mobiles, and some of other countries."""
    kenyan = st.builds("+254{}{:08}".format, st.sampled_from("71"), st.integers(0, 99_999_999))
    foreign = st.sampled_from(["+256700123456", "+2348031234567", "+27711234567", "+12125550123"])
    return st.one_of(kenyan, foreign).map(PhoneNumber)


@st.composite
def phone_spellings(draw: DrawFn, number: PhoneNumber, /) -> str:
    """A way to type a number that means this one to a Kenyan desk."""
    spelling = number.e164
    if spelling.startswith("+254"):
        prefixes = ("+254", "254", "0", "", "00254", "000254", "+2540", "2540")
        spelling = draw(st.sampled_from(prefixes)) + spelling.removeprefix("+254")
    places = draw(st.lists(st.integers(0, len(spelling)), max_size=6))
    for place in sorted(places, reverse=True):
        separator = draw(st.sampled_from(" -.()\u00a0"))
        spelling = spelling[:place] + separator + spelling[place:]
    return spelling


def currencies() -> SearchStrategy[str]:
    """The currencies Savannah deals in by default."""
    return st.sampled_from(DEFAULT_CURRENCIES)


def money(*, currency: str | None = None) -> SearchStrategy[Money]:
    """Unit prices: 0.01 to 99999999.99, whole ones in UGX and RWF."""
    code = currencies() if currency is None else st.just(currency)
    return st.builds(_price, code, st.integers(1, AMOUNT_MAX_MINOR))


def _price(currency: str, minor: int) -> Money:
    whole_only = currency in ("UGX", "RWF")
    return Money(max(100, minor - minor % 100) if whole_only else minor, currency)


def amounts(*, currency: str = "KES") -> SearchStrategy[str]:
    """Accepted spellings of unit prices: leading zeros, and no, one or two decimals."""
    return st.builds(_spelled, money(currency=currency), st.integers(0, 9), st.sampled_from("012"))


def _spelled(price: Money, zeros: int, decimals: str) -> str:
    whole, _, fraction = price.text.partition(".")
    kept = fraction[: int(decimals)]
    fraction = kept if not fraction[len(kept) :].strip("0") else fraction
    return "0" * zeros + (f"{whole}.{fraction}" if fraction else whole)


# --- callers, customers, orders ------------------------------------------------------------------


def callers() -> SearchStrategy[Caller]:
    """People of every role, and machine clients with any scopes."""
    principal = st.text(string.ascii_lowercase, min_size=1, max_size=8)
    people = st.builds(Caller.with_role, principal.map("user:{}".format), st.sampled_from(Role))
    machines = st.builds(
        lambda name, scopes: Caller(principal=f"client:{name}", permissions=scopes, client_id=name),
        principal,
        st.frozensets(st.sampled_from(Scope)),
    )
    return st.one_of(people, machines)


def customers(**overrides: Any) -> SearchStrategy[Customer]:
    """Live customers as stored; fields given by name, or their strategies, replace the drawn."""
    fields: dict[str, Any] = {
        "id": _UUIDS.map(CustomerId),
        "code": st.text(CODE_SYMBOLS, min_size=2, max_size=20),
        "name": texts(most=255),
        "email": st.none() | emails(),
        "phone": phone_numbers(),
        "locale": st.sampled_from(Locale),
        "sms_opt_out": seldom(),
        "reachability": st.sampled_from(Reachability),
        "notes": texts(most=NOTES_MAX, least=0, multiline=True),
        "metadata": metadata(),
    }
    return st.builds(_customer, at=moments(), **_strategies(fields | overrides))


def _customer(*, at: datetime, **fields: Any) -> Customer:
    return Customer(**{"created_at": at, "updated_at": at} | fields)


def orders(
    *,
    customer: Customer | None = None,
    status: Status | None = None,
    **overrides: Any,
) -> SearchStrategy[Order]:
    """Orders where real transitions took them.

    Args:
        customer: whose order; any id when it is None.
        status: in which state; any when it is None.
        overrides: what to replace at the end: fields by name, or their strategies.
    """
    new = st.builds(
        _new_order,
        id=_UUIDS.map(OrderId),
        symbols=st.text(CROCKFORD, min_size=REFERENCE_SYMBOLS, max_size=REFERENCE_SYMBOLS),
        customer_id=_UUIDS.map(CustomerId) if customer is None else st.just(customer.id),
        item=texts(most=255),
        price=money(),
        quantity=st.integers(1, 100),
        notes=texts(most=NOTES_MAX, least=0, multiline=True),
        metadata=metadata(),
        at=moments(),
    )
    return st.builds(_walked, new, _steps(status), st.fixed_dictionaries(_strategies(overrides)))


def _new_order(*, price: Money, **fields: Any) -> Order:
    return Order.create(
        amount=price.text, currency=price.currency, currencies=(price.currency,), **fields
    )


def _end_of(path: Sequence[Transition]) -> Status:
    return path[-1].target if path else Status.PENDING


def _every_path() -> Sequence[Sequence[Transition]]:
    paths: list[tuple[Transition, ...]] = [()]
    for path in paths:  # grows while it is walked, and ends: the states have no cycle
        paths.extend((*path, edge) for edge in TRANSITIONS if edge.source is _end_of(path))
    return paths


_PATHS: Final = _every_path()


@st.composite
def _steps(draw: DrawFn, status: Status | None, /) -> list[dict[str, Any]]:
    # Drawn one by one: Hypothesis warns of a strategy that spells every path out in its repr.
    ways = [path for path in _PATHS if status is None or _end_of(path) is status]
    return [draw(_step(edge)) for edge in draw(st.sampled_from(ways))]


def _step(edge: Transition) -> SearchStrategy[dict[str, Any]]:
    reasons = st.sampled_from(sorted(edge.reasons or CancelReason))
    return st.fixed_dictionaries(
        {
            "target": st.just(edge.target),
            "by": st.sampled_from([Caller.admin("ann"), Caller.admin("ben")]),
            "reason": reasons if edge.target is Status.CANCELLED else st.none(),
            "note": st.none() | texts(most=NOTES_MAX, multiline=True),
            "wait": waits(),
        }
    )


def _walked(order: Order, steps: Sequence[dict[str, Any]], overrides: dict[str, Any]) -> Order:
    for step in steps:
        how = {name: value for name, value in step.items() if name != "wait"}
        order, _ = order.move_to(at=order.updated_at + step["wait"], **how)
    return replace(order, **overrides)


def waits(*, most: timedelta = timedelta(days=30)) -> SearchStrategy[timedelta]:
    """Whole seconds to let pass, none included."""
    return st.integers(0, int(most.total_seconds())).map(lambda many: timedelta(seconds=many))


def seldom() -> SearchStrategy[bool]:
    """True once in a while, for what would otherwise hide everything else."""
    return st.sampled_from([False] * 7 + [True])


def _strategies(fields: dict[str, Any]) -> dict[str, SearchStrategy[Any]]:
    return {
        name: value if isinstance(value, SearchStrategy) else st.just(value)
        for name, value in fields.items()
    }


# --- messages ------------------------------------------------------------------------------------


def policies() -> SearchStrategy[Policy]:
    """Settings for texts, each rule on or off."""
    budget = st.none() | st.integers(0, 100 * COST_UNITS)
    return st.builds(
        Policy,
        quiet_hours=st.none() | quiet_hours(),
        phone_limit=st.none() | st.builds(Rate, st.integers(1, 4), st.just(timedelta(hours=1))),
        budget_daily=budget,
        budget_monthly=budget,
        budget_action=st.sampled_from(BudgetAction),
        max_segments=st.integers(1, 3),
        max_attempts=st.sampled_from([1, 2, 3, 6]),
        resend_unknown=st.booleans(),
        zone=zones(),
    )


def quiet_hours() -> SearchStrategy[QuietHours]:
    """Quiet hours to the minute, over midnight or within one day."""
    minute = st.times().map(lambda clock: clock.replace(second=0, microsecond=0, fold=0))
    pairs = st.tuples(minute, minute).filter(lambda pair: pair[0] != pair[1])
    return pairs.map(lambda pair: QuietHours(*pair))


def facts(**overrides: Any) -> SearchStrategy[Facts]:
    """What the policy looks at; fields given by name, or their strategies, replace the drawn."""
    spent = st.none() | st.integers(0, 100 * COST_UNITS)
    fields: dict[str, Any] = {
        "now": moments(),
        "event": st.sampled_from(SmsEvent),
        "phone": st.one_of(phone_numbers(), phone_numbers(), st.none()),
        "notify": seldom().map(lambda silent: not silent),
        "order_deleted": seldom(),
        "customer_erased": seldom(),
        "opted_out": seldom(),
        "blocked": seldom(),
        "already_handled": seldom(),
        "asked_by_human": st.booleans(),
        "spent_today": spent,
        "spent_this_month": spent,
    }
    ago = st.none() | st.lists(waits(most=timedelta(hours=3)), max_size=6)
    return st.builds(_facts, ago=ago, **_strategies(fields | overrides))


def _facts(*, ago: Sequence[timedelta] | None, now: datetime, **fields: Any) -> Facts:
    texted_at = None if ago is None else [now - each for each in ago]
    return Facts(now=now, **{"texted_at": texted_at} | fields)


def outcomes() -> SearchStrategy[Outcome]:
    """What a gateway answers, each kind of refusal as likely as an acceptance."""
    costs = st.builds(Cost, currency=st.sampled_from(["KES", "UGX"]), units=st.integers(0, 90_000))
    return st.one_of(
        st.builds(
            Accepted,
            provider_id=provider_ids(),
            cost=st.none() | costs,
            segments=st.none() | st.integers(1, 3),
        ),
        st.builds(
            RefusedSms, kind=st.sampled_from(RefusalKind), code=st.sampled_from(["403", "500"])
        ),
        st.builds(UnknownOutcome, cause=st.sampled_from(["read_timeout", "http_502"])),
    )


def provider_ids() -> SearchStrategy[str]:
    """A handful of a gateway's message ids, so that reports meet messages."""
    return st.sampled_from(["ATXid_1", "ATXid_2", "ATXid_3"])


_WORDS: Final = {
    "Sent": Report.SENT,
    "Submitted": Report.SENT,
    "Buffered": Report.SENT,
    "Success": Report.DELIVERED,
    "Rejected": Report.FAILED,
    "Failed": Report.FAILED,
    "Expiring": None,
}


def delivery_reports(**overrides: Any) -> SearchStrategy[DeliveryReport]:
    """Delivery reports; fields given by name, or their strategies, replace the drawn."""
    reasons = ("UserInBlackList", "AbsentSubscriber", "UserDoesNotExist", "DeliveryFailure")
    fields: dict[str, Any] = {
        "provider_id": provider_ids(),
        "word": st.sampled_from(sorted(_WORDS)),
        "phone": phone_numbers().map(lambda phone: phone.e164),
        "network_code": st.none() | st.sampled_from(["63902", "63903"]),
        "failure_reason": st.none() | st.sampled_from(reasons),
        "received_at": moments(),
    }
    return st.builds(_report, **_strategies(fields | overrides))


def _report(*, word: str, failure_reason: str | None, **fields: Any) -> DeliveryReport:
    report = _WORDS.get(word)
    reason = failure_reason if report is Report.FAILED else None
    return DeliveryReport(
        **{"report": report, "word": word, "failure_reason": reason} | fields,
    )


def notifications(*, order: Order | None = None, **overrides: Any) -> SearchStrategy[Notification]:
    """Messages in any state of their life, brought there by verdicts, outcomes and reports.

    Args:
        order: what the message is about; any order when it is None.
        overrides: what to replace at the end: fields by name, or their strategies.
    """
    learnt = st.sampled_from([*Reachability, Reachability.UNKNOWN, Reachability.REACHABLE])
    return st.builds(
        _lived,
        id=_UUIDS.map(NotificationId),
        order=orders() if order is None else st.just(order),
        customer=customers(reachability=learnt),
        policy=policies(),
        silent=seldom(),
        newest=st.booleans(),
        life=st.lists(
            st.tuples(waits(), st.one_of(outcomes(), outcomes(), delivery_reports(), st.none())),
            max_size=5,
        ),
        overrides=st.fixed_dictionaries(_strategies(overrides)),
    )


def _lived(
    *,
    id: NotificationId,
    order: Order,
    customer: Customer,
    policy: Policy,
    silent: bool,
    newest: bool,
    life: Sequence[tuple[timedelta, Outcome | DeliveryReport | None]],
    overrides: dict[str, Any],
) -> Notification:
    now = order.updated_at
    message = Notification.compose(
        id=id,
        event=order.reached_events[-1 if newest else 0],
        order=order,
        customer=replace(customer, id=order.customer_id),
        policy=policy,
        notify=not silent,
        at=now,
    )
    for wait, step in life:
        now += wait
        if isinstance(step, DeliveryReport):
            message = message.reported(replace(step, received_at=now))
            continue
        if message.status in WAITING and message.to is not None:
            message = message.started(to=message.to, at=now)
        if message.status is SmsStatus.SENDING and step is not None:  # None: no answer yet
            message = message.settled(step, policy=policy, jitter=0.5, at=now)
    return replace(message, **overrides)
