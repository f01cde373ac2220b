"""`savannah import-django`: what the Django service has stored, as things of this one.

Ids follow from the old keys (UUID version 5), so a second run finds what the first one did and
goes on where that ended. A row that breaks a rule is told, without its values, and left out. No
text is sent: each imported order gets one message that was skipped from the beginning.

The mapping is a table in docs/how-to/move-from-django.md.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar
from uuid import UUID, uuid5

from sqlalchemy import Connection, Table, select

from savannah.adapters.django_source import DjangoSource, Layout, Values
from savannah.adapters.sql import SqlStorage
from savannah.adapters.sql.tables import metadata
from savannah.application.business import Business
from savannah.application.orders import summary
from savannah.application.ports import UnitOfWork
from savannah.domain import identity
from savannah.domain.access import IDENTITY_SCOPES, ROLE_SCOPES, Role
from savannah.domain.clients import AppRequest, Client, ClientType, GrantType
from savannah.domain.customer import Customer, CustomerId, generated_code
from savannah.domain.errors import (
    CodeTaken,
    EmailTaken,
    FieldProblem,
    Invalid,
    OrderNumberTaken,
    Problems,
    Refused,
)
from savannah.domain.identity import User, UserId
from savannah.domain.notification import Notification
from savannah.domain.order import (
    CROCKFORD,
    REFERENCE_SYMBOLS,
    Cancellation,
    CancelReason,
    NotificationId,
    Order,
    OrderId,
    Status,
    with_sms,
)

T = TypeVar("T", User, Client, Customer, Order)
Tell = Callable[[str], None]

# Whoever imports the same rows anywhere gets the same ids.
_NAMESPACE: Final = UUID("6d9f3a52-0c1e-5b7a-9a44-2f1d8c5e7b90")
_IMPORTER: Final = "import-django"
# Of Django's password hashers; they stay until they are used the first time.
_HASHES: Final = ("pbkdf2_", "argon2$")
_UNUSABLE: Final = "!"  # and more behind it: an account without a password
_TRIES: Final = 20  # of a code or a number that somebody has already

_STAMPS: Final = {
    "created_at": ("created_at", "created", "date_created", "created_on"),
    "updated_at": ("updated_at", "updated", "modified", "date_updated", "modified_at"),
}
LAYOUTS: Final[Mapping[str, Layout]] = {
    "users": Layout(
        ("auth_user", "users_user", "accounts_user"),
        {
            name: (name,)
            for name in (
                "id",
                "username",
                "email",
                "password",
                "first_name",
                "last_name",
                "is_active",
                "is_staff",
                "is_superuser",
                "date_joined",
                "last_login",
            )
        },
    ),
    "apps": Layout(
        ("oauth2_provider_application",),
        {
            "id": ("id",),
            "client_id": ("client_id",),
            "client_secret": ("client_secret",),
            "client_type": ("client_type",),
            "grant": ("authorization_grant_type",),
            "redirect_uris": ("redirect_uris",),
            "name": ("name",),
            "owner": ("user_id",),
            "created_at": ("created",),
        },
    ),
    "customers": Layout(
        ("customers_customer", "customer_customer", "core_customer", "api_customer", "customer"),
        {
            "id": ("id",),
            "name": ("name", "full_name"),
            "phone": ("phone_number", "phone", "mobile"),
            "email": ("email", "email_address"),
            "code": ("code", "customer_code"),
            "notes": ("notes", "note"),
            **_STAMPS,
        },
        frozenset({"email", "code", "notes", *_STAMPS}),
    ),
    "orders": Layout(
        ("orders_order", "order_order", "core_order", "api_order", "order"),
        {
            "id": ("id",),
            "customer": ("customer_id",),
            "item": ("item", "product", "item_name"),
            "amount": ("amount", "price", "unit_price"),
            "quantity": ("quantity", "qty"),
            "currency": ("currency",),
            "status": ("status", "state"),
            "notes": ("notes", "note", "description"),
            **_STAMPS,
            "created_at": (*_STAMPS["created_at"], "time", "order_time", "ordered_at"),
        },
        frozenset({"quantity", "currency", "status", "notes", *_STAMPS}),
    ),
}
STATUSES: Final[Mapping[str, Status]] = {
    **{status.value: status for status in Status},
    "new": Status.PENDING,
    "placed": Status.PENDING,
    "confirmed": Status.PROCESSING,
    "paid": Status.PROCESSING,
    "in_progress": Status.PROCESSING,
    "dispatched": Status.SHIPPED,
    "completed": Status.DELIVERED,
    "complete": Status.DELIVERED,
    "canceled": Status.CANCELLED,
}
_GRANTS: Final = {
    "authorization-code": (GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN),
    # People gave such an app their password; here that is a first-party app.
    "password": (GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN),
    "client-credentials": (GrantType.CLIENT_CREDENTIALS,),
}


class MappingUnusable(Exception):
    """The mapping file cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Mappings:
    """Where the old service kept what, and what its words for a status mean."""

    layouts: Mapping[str, Layout] = field(default_factory=lambda: LAYOUTS)
    statuses: Mapping[str, Status] = field(default_factory=lambda: STATUSES)

    @classmethod
    def read(cls, path: Path) -> Mappings:
        """The usual ones, with what a TOML file says instead. Raises: MappingUnusable."""
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MappingUnusable(f"{path} is no readable TOML file") from error
        known = cls()
        layouts = dict(known.layouts)
        statuses = dict(known.statuses)
        for section, names in told.items():
            if not isinstance(names, dict) or not all(
                isinstance(name, str) and name for name in names.values()
            ):
                raise MappingUnusable(f"[{section}] must be names in quotation marks")
            if section == "statuses":
                for old, new in names.items():
                    if new not in set(Status):
                        raise MappingUnusable(f"[statuses] {old}: use one of {', '.join(Status)}")
                    statuses[old.lower()] = Status(new)
            elif section in layouts:
                layouts[section] = _changed(section, layouts[section], names)
            else:
                raise MappingUnusable(f"[{section}] is not one of {', '.join(layouts)}, statuses")
        return cls(layouts, statuses)


def _changed(section: str, layout: Layout, names: Mapping[str, str]) -> Layout:
    columns = dict(layout.columns)
    tables = layout.tables
    for label, name in names.items():
        if label == "table":
            tables = (name,)
        elif label in columns:
            columns[label] = (name,)
        else:
            known = ", ".join(("table", *columns))
            raise MappingUnusable(f"[{section}] {label} is not one of {known}")
    return replace(layout, tables=tables, columns=columns)


@dataclass(slots=True)
class Tally:
    """How many rows of one kind were read, came new, were there already, and could not come."""

    kind: str
    table: str | None
    read: int = 0
    imported: int = 0
    present: int = 0
    bad: int = 0


class _Kind(NamedTuple, Generic[T]):
    """One kind of thing: how a row becomes one, and how it is stored."""

    name: str
    made: Callable[[Values, int], Awaitable[T]]
    add: Callable[[UnitOfWork, T], Awaitable[None]]


class DjangoImport:
    """Copies users, apps, customers and orders, in this order, batch by batch.

    Args:
        now: the time of things whose time nobody kept.
        role: of users who were neither staff nor superuser.
        tell: is told of each row that cannot come.
        dry: read and check everything, store nothing. What two rows may not both have is then
            not noticed.
    """

    def __init__(
        self,
        source: DjangoSource,
        storage: SqlStorage,
        *,
        business: Business,
        now: datetime,
        role: Role,
        mappings: Mappings,
        tell: Tell,
        batch: int = 500,
        dry: bool = False,
    ) -> None:
        self._source = source
        self._storage = storage
        self._business = business
        self._now = now
        self._role = role
        self._mappings = mappings
        self._tell = tell
        self._batch = batch
        self._dry = dry
        self._known_customers: dict[CustomerId, Customer] = {}  # of the batch at hand
        self._fine_customers: set[UUID] = set()  # in a dry run, where none is stored

    async def run(self) -> AsyncIterator[Tally]:
        """Each kind's tally when it is done.

        Raises:
            LayoutUnknown, Unavailable: what was stored until then stays.
        """
        yield await self._copied(_Kind("users", self._user, lambda uow, each: uow.users.add(each)))
        yield await self._copied(_Kind("apps", self._app, lambda uow, each: uow.clients.add(each)))
        yield await self._copied(
            _Kind("customers", self._customer, lambda uow, each: uow.customers.add(each))
        )
        yield await self._copied(_Kind("orders", self._order, self._add_order))

    async def _copied(self, kind: _Kind[T]) -> Tally:
        layout = self._mappings.layouts[kind.name]
        tally = Tally(kind.name, await self._source.table_of(layout))
        if tally.table is None:
            return tally
        stored_in = metadata.tables["clients" if kind.name == "apps" else kind.name]
        async for rows in self._source.rows(tally.table, layout, most=self._batch):
            tally.read += len(rows)
            ids = {_id(kind.name, row["id"]): row for row in rows}
            there = await self._storage.read(partial(_present, stored_in, list(ids)))
            tally.present += len(there)
            if kind.name == "orders":
                await self._look_up_buyers(rows)
            fresh = [row for id_, row in ids.items() if id_ not in there]
            await self._copy_batch(kind, fresh, tally)
        return tally

    async def _copy_batch(self, kind: _Kind[T], rows: Sequence[Values], tally: Tally) -> None:
        good: list[tuple[Values, T]] = []
        for row in rows:
            try:
                good.append((row, await kind.made(row, 0)))
            except Invalid as invalid:
                self._refuse(tally, row, invalid.problems)
        if self._dry:
            tally.imported += len(good)
            if kind.name == "customers":
                self._fine_customers |= {each.id for _, each in good}
            return
        try:
            await self._stored(kind, [each for _, each in good])
            tally.imported += len(good)
        except (Invalid, EmailTaken, CodeTaken, OrderNumberTaken):
            for row, each in good:  # one of them is in the way: find out which
                await self._copy_one(kind, row, each, tally)

    async def _copy_one(self, kind: _Kind[T], row: Values, thing: T, tally: Tally) -> None:
        for number in range(1, _TRIES):
            try:
                await self._stored(kind, [thing])
            except (CodeTaken, OrderNumberTaken) as taken:
                if isinstance(taken, CodeTaken) and row.get("code"):
                    self._refuse(tally, row, [FieldProblem("code", taken.code, taken.detail)])
                    return
                thing = await kind.made(row, number)
            except EmailTaken as taken:
                self._refuse(tally, row, [FieldProblem("email", taken.code, taken.detail)])
                return
            except Invalid as invalid:
                self._refuse(tally, row, invalid.problems)
                return
            else:
                tally.imported += 1
                return
        raise RuntimeError("no code or number was free")

    async def _stored(self, kind: _Kind[T], things: Sequence[T]) -> None:
        if not things:
            return
        async with self._storage() as uow:
            for each in things:
                await kind.add(uow, each)
            await uow.commit()

    def _refuse(self, tally: Tally, row: Values, problems: Sequence[FieldProblem]) -> None:
        tally.bad += 1
        for problem in problems:
            self._tell(
                f"{tally.table} {row['id']}: {problem.field} {problem.code}: {problem.detail}"
            )

    # --- what a row means ------------------------------------------------------------------------

    async def _user(self, row: Values, _: int) -> User:
        problems = Problems()
        email = row["email"] or None
        user = User(
            id=UserId(_id("users", row["id"])),
            username=problems.check(
                "username", lambda: identity.username_rule(row["username"]), default=""
            ),
            email=problems.check("email", lambda: identity.optional_email(email), default=None),
            first_name=problems.check(
                "first_name", lambda: identity.person_name(row["first_name"] or ""), default=""
            ),
            last_name=problems.check(
                "last_name", lambda: identity.person_name(row["last_name"] or ""), default=""
            ),
            role=Role.ADMIN
            if row["is_superuser"]
            else Role.STAFF
            if row["is_staff"]
            else self._role,
            password_hash=problems.check(
                "password", lambda: _password_hash(row["password"]), default=""
            ),
            is_active=bool(row["is_active"]),
            date_joined=_moment(problems, "date_joined", row["date_joined"]),
            last_login=None
            if row["last_login"] is None
            else _moment(problems, "last_login", row["last_login"]),
        )
        problems.raise_if_any()
        return user

    async def _app(self, row: Values, _: int) -> Client:
        problems = Problems()
        old = str(row["grant"])
        if old not in _GRANTS:
            problems.add(
                "authorization_grant_type", "invalid_choice", f"Only {', '.join(_GRANTS)} come over"
            )
        created_at = _moment(problems, "created", row["created_at"])
        problems.raise_if_any()
        asked = AppRequest.parse(
            name=row["name"] or row["client_id"],
            client_type=row["client_type"],
            redirect_uris=str(row["redirect_uris"] or "").split(),
            grant_types=_GRANTS[old],
        )
        secret = row["client_secret"] or ""
        confidential = asked.client_type is ClientType.CONFIDENTIAL
        staff = (scope.value for scope in ROLE_SCOPES[Role.STAFF])
        every = (scope.value for scope in ROLE_SCOPES[Role.ADMIN])
        return Client(
            id=_id("apps", row["id"]),
            client_id=str(row["client_id"]),
            name=asked.name,
            client_type=asked.client_type,
            secret_digests=(_kept_secret(secret),) if confidential and secret else (),
            redirect_uris=asked.redirect_uris,
            grant_types=asked.grant_types,
            scopes=frozenset({*IDENTITY_SCOPES, *(staff if asked.for_machines else every)}),
            first_party=old == "password",
            owner_id=None if row["owner"] is None else UserId(_id("users", row["owner"])),
            created_at=created_at,
        )

    async def _customer(self, row: Values, attempt: int) -> Customer:
        problems = Problems()
        id_ = CustomerId(_id("customers", row["id"]))
        created_at, updated_at = _stamps(problems, row, self._now)
        problems.raise_if_any()
        customer = Customer.create(
            id=id_,
            name=row["name"],
            phone_number=None if row["phone"] is None else str(row["phone"]),
            email=row["email"] or None,
            code=row["code"] or generated_code(_symbols(id_, attempt)),
            locale=self._business.locale,
            notes=_lines(row["notes"]),
            metadata={"django_id": str(row["id"])},
            region=self._business.region,
            at=created_at,
        )
        return replace(customer, updated_at=updated_at)

    async def _look_up_buyers(self, rows: Sequence[Values]) -> None:
        ids = {CustomerId(_id("customers", row["customer"])) for row in rows}
        async with self._storage(reading=True) as uow:
            self._known_customers = dict(await uow.customers.get_many(ids))

    async def _order(self, row: Values, attempt: int) -> Order:
        problems = Problems()
        buyer = CustomerId(_id("customers", row["customer"]))
        if buyer not in self._known_customers and buyer not in self._fine_customers:
            problems.add("customer", "not_found", "This customer was not imported")
        status = problems.check("status", lambda: self._status(row["status"]), default=None)
        created_at, updated_at = _stamps(problems, row, self._now)
        id_ = OrderId(_id("orders", row["id"]))
        order: Order | None = None
        try:
            order = Order.create(
                id=id_,
                symbols=_symbols(id_, attempt),
                customer_id=buyer,
                item=row["item"],
                amount=_amount(row["amount"]),
                quantity=1 if row["quantity"] is None else row["quantity"],
                currency=row["currency"] or self._business.currency,
                currencies=self._business.currencies,
                notes=_lines(row["notes"]),
                metadata={"django_id": str(row["id"])},
                at=created_at,
            )
        except Invalid as invalid:
            problems.extend(invalid)
        problems.raise_if_any()
        assert order is not None
        assert status is not None
        gone_out = status in (Status.SHIPPED, Status.DELIVERED)
        return replace(
            order,
            status=status,
            updated_at=updated_at,
            status_changed_at=created_at if status is Status.PENDING else updated_at,
            shipped_at=updated_at if gone_out else None,
            delivered_at=updated_at if status is Status.DELIVERED else None,
            cancellation=Cancellation(
                reason=CancelReason.OTHER,
                note=None,
                cancelled_at=updated_at,
                cancelled_by=_IMPORTER,
            )
            if status is Status.CANCELLED
            else None,
        )

    async def _add_order(self, uow: UnitOfWork, order: Order) -> None:
        """The order, and in place of the texts it once sent one that never will be."""
        message = Notification.compose(
            id=NotificationId(uuid5(_NAMESPACE, f"message:{order.id}")),
            event=order.default_sms_event,
            order=order,
            customer=self._known_customers[order.customer_id],
            policy=self._business.policy,
            notify=False,
            at=order.updated_at,
        )
        await uow.orders.add(with_sms(order, summary(message)))
        await uow.notifications.add(message)

    def _status(self, word: object) -> Status:
        if word is None:
            return Status.PENDING
        found = self._mappings.statuses.get(str(word).strip().lower().replace(" ", "_"))
        if found is None:
            raise Refused("invalid_choice", "Name this word under [statuses] in a --mapping file")
        return found


def _present(stored_in: Table, ids: Sequence[UUID], connection: Connection) -> set[UUID]:
    return set(connection.scalars(select(stored_in.c.id).where(stored_in.c.id.in_(ids))))


def _id(kind: str, key: object) -> UUID:
    """The id of what had this primary key. A UUID reads the same with and without dashes."""
    return uuid5(_NAMESPACE, f"{kind}:{str(key).replace('-', '')}")


def _symbols(id_: UUID, attempt: int) -> str:
    seed = hashlib.sha256(f"{id_}:{attempt}".encode()).digest()
    return "".join(CROCKFORD[byte % len(CROCKFORD)] for byte in seed[:REFERENCE_SYMBOLS])


def _password_hash(stored: str | None) -> str:
    """A hash that a login can be checked by, or Django's mark of none. Raises: Refused."""
    if stored and not stored.startswith((*_HASHES, _UNUSABLE)):
        raise Refused("invalid_format", "Only hashes of PBKDF2 and argon2 can be checked here")
    return stored or _UNUSABLE


def _kept_secret(secret: str) -> str:
    """The hash that django-oauth-toolkit has made, or that of a secret from before it did."""
    hashed = secret.count("$") >= 3 and secret.startswith(_HASHES)
    return secret if hashed else identity.digest(secret)


def _lines(notes: object) -> object:
    """A text of several lines, whose ends browsers send as CR LF and Django keeps."""
    return notes.replace("\r\n", "\n") if isinstance(notes, str) else notes or ""


def _amount(value: object) -> object:
    """A price without the zeros that a driver adds; SQLite keeps decimals as floats."""
    if isinstance(value, float):
        value = Decimal(repr(value))
    if isinstance(value, Decimal):
        return format(value.normalize(), "f") if value.is_finite() else str(value)
    return value


def _stamps(problems: Problems, row: Values, now: datetime) -> tuple[datetime, datetime]:
    created = row["created_at"] if row["created_at"] is not None else row["updated_at"]
    updated = row["updated_at"] if row["updated_at"] is not None else created
    if created is None:
        return now, now
    return _moment(problems, "created_at", created), _moment(problems, "updated_at", updated)


def _moment(problems: Problems, name: str, value: object) -> datetime:
    """A moment as Django stores it: aware on Postgres, UTC text on SQLite."""

    def read() -> datetime:
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        except ValueError:
            raise Refused("invalid_format", "This is no date and time") from None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

    return problems.check(name, read, default=datetime.now(UTC))
