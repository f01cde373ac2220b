"""The tables, their constraints and indexes; one definition for SQLite and Postgres.

Constraint and index names matter: `transaction` turns broken ones into errors of the domain. What
is queried lives beside its repository; how tables come to be is in `migrations`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
    and_,
    func,
    literal_column,
    text,
)

from savannah.adapters.sql.column_types import Instant, Uid, Words
from savannah.domain.access import Role
from savannah.domain.clients import ClientType
from savannah.domain.customer import Reachability
from savannah.domain.events import LOGIN_ACTIONS
from savannah.domain.money import QUANTITY_MAX
from savannah.domain.notification import OPEN, WAITING, Report, SmsStatus
from savannah.domain.notification_policy import DeferReason, SkipReason
from savannah.domain.order import CancelReason, Status
from savannah.domain.sms_text import Encoding, Locale, SmsEvent

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _one_of(column: str, words: Iterable[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


customers: Final = Table(
    "customers",
    metadata,
    Column("id", Uid, primary_key=True),
    Column("code", Words, nullable=False),
    Column("name", Words),
    Column("email", Words),
    Column("phone", Words),
    Column("locale", Words, nullable=False),
    Column("sms_opt_out", Boolean, nullable=False),
    Column("reachability", Words, nullable=False),
    Column("notes", Words),
    # JSON, not JSONB, which would forget the order of the keys.
    Column("metadata", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("archived_at", Instant),
    Column("erased_at", Instant),
    Column("version", Integer, nullable=False),
    # What searches and comparisons look at; made from the columns above on every write.
    Column("email_key", Words),
    Column("name_folded", Words),
    Column("email_folded", Words),
    Column("code_folded", Words, nullable=False),
    Column("phone_digits", Words),
    UniqueConstraint("code"),
    _one_of("locale", Locale),
    _one_of("reachability", Reachability),
    CheckConstraint("version > 0", name="version"),
)
CUSTOMER_NAME: Final = func.coalesce(customers.c.name, literal_column("''"), type_=Words)
_live = customers.c.archived_at.is_(None)
Index(
    "uq_customers_email_key_live",
    customers.c.email_key,
    unique=True,
    sqlite_where=_live,
    postgresql_where=_live,
)
Index("ix_customers_email_key", customers.c.email_key)
Index("ix_customers_phone", customers.c.phone)
Index("ix_customers_created_at", customers.c.created_at, customers.c.id)
Index("ix_customers_updated_at", customers.c.updated_at, customers.c.id)
Index("ix_customers_name", text("coalesce(name, '')"), customers.c.id)
Index("ix_customers_reachability", customers.c.reachability, customers.c.created_at)
# The few among many; the others are found on the way through the many.
for _name, _column, _few in (
    ("archived", customers.c.archived_at, customers.c.archived_at.is_not(None)),
    ("sms_opt_out", customers.c.sms_opt_out, customers.c.sms_opt_out),
):
    Index(
        f"ix_customers_{_name}",
        customers.c.created_at,
        customers.c.id,
        sqlite_where=_few,
        postgresql_where=_few,
    )
Index("ix_customers_locale", customers.c.locale, customers.c.created_at, customers.c.id)

orders: Final = Table(
    "orders",
    metadata,
    Column("id", Uid, primary_key=True),
    Column("number", Words, nullable=False),
    Column("customer_id", Uid, ForeignKey("customers.id"), nullable=False),
    Column("item", Words, nullable=False),
    Column("price_minor", BigInteger, nullable=False),
    Column("currency", Words, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("total_minor", BigInteger, nullable=False),
    Column("status", Words, nullable=False),
    Column("notes", Words),
    Column("metadata", JSON, nullable=False),
    Column("cancel_reason", Words),
    Column("cancel_note", Words),
    Column("cancelled_at", Instant),
    Column("cancelled_by", Words),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("status_changed_at", Instant, nullable=False),
    Column("shipped_at", Instant),
    Column("delivered_at", Instant),
    Column("deleted_at", Instant),
    Column("version", Integer, nullable=False),
    # The newest message. No foreign key: the message refers to the order, and one of the two
    # has to be written first.
    Column("notification_id", Uid),
    # What searches and reports look at; made from the columns above on every write.
    Column("number_compact", Words, nullable=False),
    Column("item_key", Words, nullable=False),
    Column("item_folded", Words, nullable=False),
    Column("notes_folded", Words),
    UniqueConstraint("number"),
    _one_of("status", Status),
    _one_of("cancel_reason", CancelReason),
    CheckConstraint("price_minor > 0", name="price"),
    CheckConstraint(f"quantity BETWEEN 1 AND {QUANTITY_MAX}", name="quantity"),
    CheckConstraint("total_minor = price_minor * quantity", name="total"),
    CheckConstraint("version > 0", name="version"),
    CheckConstraint("(status = 'cancelled') = (cancel_reason IS NOT NULL)", name="cancellation"),
)
_kept = orders.c.deleted_at.is_(None)
for _name, _columns in {
    "created_at": (orders.c.created_at,),
    "updated_at": (orders.c.updated_at,),
    "status_changed_at": (orders.c.status_changed_at,),
    "total_minor": (orders.c.total_minor,),
    "customer_id": (orders.c.customer_id, orders.c.created_at),
    "status": (orders.c.status, orders.c.created_at),
    "currency": (orders.c.currency, orders.c.created_at),
}.items():
    Index(
        f"ix_orders_{_name}",
        *_columns,
        orders.c.id,
        sqlite_where=_kept,
        postgresql_where=_kept,
    )

# What a search on Postgres looks at. A document has the fields in one text, each on a line of its
# own that begins with a blank, so one pattern finds a part (`%lap%`) or the beginning of a word
# (`% lap%`); an order number without its dashes stands behind `#`, where no word begins. An array
# has the fields as wholes. The indexes are over the very same expressions; `schema` makes those of
# trigrams where the database can.
_FIELD: Final[ColumnElement[str]] = literal_column(r"E'\n '")
_LINE: Final[ColumnElement[str]] = literal_column(r"E'\n'")
_NONE: Final[ColumnElement[str]] = literal_column("''")
ORDER_DOCUMENT: Final[ColumnElement[str]] = (
    _FIELD.concat(func.lower(orders.c.number))
    .concat(literal_column(r"E'\n\x01'"))  # which no query can hold
    .concat(func.lower(orders.c.number_compact))
    .concat(_FIELD)
    .concat(orders.c.item_folded)
    .concat(_FIELD)
    .concat(func.coalesce(orders.c.notes_folded, _NONE))
    .concat(_LINE)
)
CUSTOMER_DOCUMENT: Final[ColumnElement[str]] = (
    _FIELD.concat(func.coalesce(customers.c.name_folded, _NONE))
    .concat(_FIELD)
    .concat(func.coalesce(customers.c.email_folded, _NONE))
    .concat(_FIELD)
    .concat(customers.c.code_folded)
    .concat(_LINE)
)
ORDER_WHOLES: Final[ColumnElement[Any]] = literal_column(
    r"(ARRAY[lower(orders.number), E'\n' || orders.number_compact, orders.item_folded,"
    " orders.notes_folded])"
)
CUSTOMER_WHOLES: Final[ColumnElement[Any]] = literal_column(
    "(ARRAY[customers.name_folded, customers.email_folded, customers.code_folded])"
)
# Table, expression and condition of each.
TRIGRAM_INDEXES: Final[dict[str, tuple[Table, ColumnElement[Any], ColumnElement[bool] | None]]] = {
    "ix_orders_document": (orders, ORDER_DOCUMENT, _kept),
    "ix_customers_document": (customers, CUSTOMER_DOCUMENT, None),
    "ix_customers_phone_digits": (customers, customers.c.phone_digits, None),
}
for _name, _table, _expression, _where in (
    ("ix_orders_wholes", orders, ORDER_WHOLES, _kept),
    ("ix_customers_wholes", customers, CUSTOMER_WHOLES, None),
):
    Index(
        _name,
        text(str(_expression).replace(f"{_table.name}.", "")),
        _table=_table,
        postgresql_using="gin",
        postgresql_where=_where,
        postgresql_with={"gin_pending_list_limit": 512},
    ).ddl_if(dialect="postgresql")

# Reports leave out the messages of these few.
Index(
    "ix_orders_deleted",
    orders.c.id,
    sqlite_where=orders.c.deleted_at.is_not(None),
    postgresql_where=orders.c.deleted_at.is_not(None),
)


def _status_in(among: Iterable[SmsStatus]) -> str:
    return f"status IN ({', '.join(repr(str(status)) for status in sorted(among))})"


notifications: Final = Table(
    "notifications",
    metadata,
    Column("id", Uid, primary_key=True),
    Column("order_id", Uid, ForeignKey("orders.id"), nullable=False),
    Column("customer_id", Uid, ForeignKey("customers.id"), nullable=False),
    Column("event", Words, nullable=False),
    Column("dedupe_key", Words, nullable=False),
    Column("to_phone", Words),
    Column("locale", Words, nullable=False),
    Column("text", Words),
    Column("encoding", Words, nullable=False),
    Column("segments", Integer, nullable=False),
    Column("status", Words, nullable=False),
    Column("skip_reason", Words),
    Column("defer_reason", Words),
    Column("rules", JSON, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Instant, nullable=False),
    # When a waiting message may be taken: when it is due, or when its lease ends. The others have
    # none, so that SQLite, which has no statistics to go by, finds the outbox without `status`.
    Column("free_at", Instant),
    Column("handed_at", Instant),
    Column("sent_at", Instant),
    Column("delivered_at", Instant),
    Column("provider_id", Words),
    Column("cost_currency", Words),
    Column("cost_units", BigInteger),
    Column("outcome_code", Words),
    Column("resend_of", Uid),
    Column("request_id", Words),
    Column("traceparent", Words),
    Column("tracestate", Words),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    UniqueConstraint("dedupe_key"),
    _one_of("event", SmsEvent),
    _one_of("locale", Locale),
    _one_of("encoding", Encoding),
    _one_of("status", SmsStatus),
    _one_of("skip_reason", SkipReason),
    _one_of("defer_reason", DeferReason),
    CheckConstraint("attempts >= 0", name="attempts"),
    CheckConstraint("segments >= 0", name="segments"),
    CheckConstraint(f"(free_at IS NOT NULL) = ({_status_in(WAITING)})", name="waiting"),
    CheckConstraint("(cost_currency IS NULL) = (cost_units IS NULL)", name="cost"),
)

IN_OUTBOX: Final = notifications.c.free_at.is_not(None)
# May cost something that nobody has quoted. Spelled out: SQLite knows the index by these words.
IS_UNQUOTED: Final[ColumnElement[bool]] = and_(
    notifications.c.cost_units.is_(None),
    text(f"({_status_in(OPEN)} OR provider_id IS NOT NULL)"),
)
for _name, _columns, _condition in (
    ("waiting_due", (notifications.c.due_at, notifications.c.id), IN_OUTBOX),
    ("waiting_free", (notifications.c.free_at,), IN_OUTBOX),
    ("provider_id", (notifications.c.provider_id,), notifications.c.provider_id.is_not(None)),
    (
        "to_phone",
        (notifications.c.to_phone, notifications.c.handed_at),
        notifications.c.handed_at.is_not(None),
    ),
    (
        "cost",
        (notifications.c.cost_currency, notifications.c.handed_at),
        notifications.c.cost_currency.is_not(None),
    ),
    ("unquoted", (notifications.c.handed_at,), IS_UNQUOTED),
    ("order_id", (notifications.c.order_id, notifications.c.created_at), None),
    ("customer_id", (notifications.c.customer_id, notifications.c.created_at), None),
    ("created_at", (notifications.c.created_at, notifications.c.id), None),
    (
        "status",
        (notifications.c.status, notifications.c.created_at, notifications.c.id),
        None,
    ),
):
    Index(
        f"ix_notifications_{_name}",
        *_columns,
        sqlite_where=_condition,
        postgresql_where=_condition,
    )

delivery_reports: Final = Table(
    "delivery_reports",
    metadata,
    Column("provider_id", Words, primary_key=True),
    Column("word", Words, primary_key=True),
    Column("report", Words),
    Column("phone", Words, nullable=False),
    Column("network_code", Words),
    Column("failure_reason", Words),
    Column("received_at", Instant, nullable=False),
    Column("matched", Boolean, nullable=False),
    _one_of("report", Report),
)
# Those whose message is not known: few, and looked for every few seconds.
_unmatched: Final = delivery_reports.c.matched.is_(False)
Index(
    "ix_delivery_reports_unmatched",
    delivery_reports.c.received_at,
    sqlite_where=_unmatched,
    postgresql_where=_unmatched,
)

Index("ix_delivery_reports_received_at", delivery_reports.c.received_at)

gateway_pauses: Final = Table(
    "gateway_pauses",
    metadata,
    Column("gateway", Words, primary_key=True),
    Column("kind", Words, nullable=False),
    Column("code", Words, nullable=False),
    Column("until", Instant, nullable=False),
    Column("since", Instant, nullable=False),
)

events: Final = Table(
    "events",
    metadata,
    Column("id", Uid, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("actor", Words, nullable=False),
    Column("action", Words, nullable=False),
    Column("subject", Words, nullable=False),
    Column("subject_id", Uid, nullable=False),
    Column("version", Integer),
    Column("data", JSON, nullable=False),
    Column("request_id", Words),
)
Index("ix_events_subject", events.c.subject_id, events.c.subject, events.c.at, events.c.id)
Index("ix_events_at", events.c.at, events.c.id)
# Those that are kept for a time only, among those that stay.
ABOUT_A_LOGIN: Final = text(f"action IN ({', '.join(map(repr, sorted(LOGIN_ACTIONS)))})")
Index(
    "ix_events_logins",
    events.c.at,
    events.c.id,
    sqlite_where=ABOUT_A_LOGIN,
    postgresql_where=ABOUT_A_LOGIN,
)

idempotency_keys: Final = Table(
    "idempotency_keys",
    metadata,
    Column("principal", Words, primary_key=True),
    Column("operation", Words, primary_key=True),
    Column("key", Words, primary_key=True),
    Column("fingerprint", Words, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("expires_at", Instant, nullable=False),
)
Index("ix_idempotency_keys_expires_at", idempotency_keys.c.expires_at)

users: Final = Table(
    "users",
    metadata,
    Column("id", Uid, primary_key=True),
    Column("username", Words, nullable=False),
    Column("email", Words),
    Column("first_name", Words, nullable=False),
    Column("last_name", Words, nullable=False),
    Column("role", Words, nullable=False),
    Column("password_hash", Words, nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("date_joined", Instant, nullable=False),
    Column("last_login", Instant),
    Column("username_key", Words, nullable=False),
    Column("email_key", Words),
    UniqueConstraint("username_key"),
    UniqueConstraint("email_key"),
    _one_of("role", Role),
)

clients: Final = Table(
    "clients",
    metadata,
    Column("id", Uid, primary_key=True),
    Column("client_id", Words, nullable=False),
    Column("name", Words, nullable=False),
    Column("client_type", Words, nullable=False),
    Column("secret_digests", JSON, nullable=False),
    Column("redirect_uris", JSON, nullable=False),
    Column("grant_types", JSON, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("first_party", Boolean, nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("owner_id", Uid),
    Column("created_at", Instant, nullable=False),
    Column("metadata", JSON),
    UniqueConstraint("client_id"),
    _one_of("client_type", ClientType),
)

# Grants outlive the users and clients they name: a grant of somebody who is gone is simply dead.
grants: Final = Table(
    "grants",
    metadata,
    Column("id", Uid, primary_key=True),
    Column("user_id", Uid),
    Column("client_id", Words, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("revoked_at", Instant),
    Column("resources", JSON),
    Column("session_id", Uid),
    Column("offline", Boolean),
    Column("nonce", Words),
    Column("auth_time", Instant),
)
Index("ix_grants_user_id", grants.c.user_id)
Index("ix_grants_client_id", grants.c.client_id)
Index("ix_grants_session_id", grants.c.session_id)
Index("ix_grants_created_at", grants.c.created_at)

refresh_tokens: Final = Table(
    "refresh_tokens",
    metadata,
    Column("digest", Words, primary_key=True),
    Column("grant_id", Uid, ForeignKey("grants.id"), nullable=False),
    Column("issued_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("consumed_at", Instant),
    Column("successor", Words),
    Column("key_thumbprint", Words),
)
Index("ix_refresh_tokens_grant_id", refresh_tokens.c.grant_id)

# Used codes stay as long as their tokens may live: a second use has to find what to revoke.
authorization_codes: Final = Table(
    "authorization_codes",
    metadata,
    Column("digest", Words, primary_key=True),
    Column("grant_id", Uid, ForeignKey("grants.id"), nullable=False),
    Column("client_id", Words, nullable=False),
    Column("redirect_uri", Words, nullable=False),
    Column("code_challenge", Words),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("consumed_at", Instant),
)
Index("ix_authorization_codes_grant_id", authorization_codes.c.grant_id)
Index("ix_authorization_codes_expires_at", authorization_codes.c.expires_at)

pushed_requests: Final = Table(
    "pushed_requests",
    metadata,
    Column("digest", Words, primary_key=True),
    Column("client_id", Words, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("expires_at", Instant, nullable=False),
)
Index("ix_pushed_requests_expires_at", pushed_requests.c.expires_at)

claimed_ids: Final = Table(
    "claimed_ids",
    metadata,
    Column("digest", Words, primary_key=True),
    Column("expires_at", Instant, nullable=False),
)
Index("ix_claimed_ids_expires_at", claimed_ids.c.expires_at)

browser_sessions: Final = Table(
    "browser_sessions",
    metadata,
    Column("id", Uid, primary_key=True),
    Column("digest", Words, nullable=False),
    Column("user_id", Uid, nullable=False),
    Column("auth_time", Instant, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("ended_at", Instant),
    UniqueConstraint("digest"),
)
Index("ix_browser_sessions_user_id", browser_sessions.c.user_id)
Index("ix_browser_sessions_expires_at", browser_sessions.c.expires_at)

consents: Final = Table(
    "consents",
    metadata,
    Column("user_id", Uid, primary_key=True),
    Column("client_id", Words, primary_key=True),
    Column("scopes", JSON, nullable=False),
    Column("given_at", Instant, nullable=False),
)

logout_notices: Final = Table(
    "logout_notices",
    metadata,
    Column("id", Uid, primary_key=True),
    Column("client_id", Words, nullable=False),
    Column("uri", Words, nullable=False),
    Column("user_id", Uid, nullable=False),
    Column("session_id", Uid, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("attempts", Integer, nullable=False),
)
Index("ix_logout_notices_due_at", logout_notices.c.due_at)

signing_keys: Final = Table(
    "signing_keys",
    metadata,
    Column("kid", Words, primary_key=True),
    Column("algorithm", Words, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("retired_at", Instant),
    Column("activated_at", Instant),
    Column("revoked_at", Instant),
)
