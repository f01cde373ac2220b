"""Everything the use cases need from the outside, in one file.

A port is a role. An adapter subclasses it explicitly, so a gap is a type error. Adapters raise the
errors of `savannah.domain.errors` only: `NotFound` where a thing is asked for by id,
`Unavailable` when storage cannot answer now.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar
from uuid import UUID

from savannah.domain.access import Role
from savannah.domain.clients import Client, ClientType
from savannah.domain.customer import Customer, CustomerId, Reachability
from savannah.domain.events import Event
from savannah.domain.identity import Grant, GrantId, RefreshToken, SigningKey, User, UserId
from savannah.domain.notification import DeliveryReport, Notification, Outcome, Pause, SmsStatus
from savannah.domain.notification_policy import Rate, Spending
from savannah.domain.oauth import (
    AuthorizationCode,
    BrowserSession,
    Consent,
    LogoutNotice,
    PushedRequest,
)
from savannah.domain.order import NotificationId, Order, OrderId, Status
from savannah.domain.paging import Page, PageRequest
from savannah.domain.search import SearchQuery
from savannah.domain.sms_text import Locale, SmsEvent
from savannah.domain.statistics import AnalyticsSums, CustomerSums, Period
from savannah.domain.trusted_issuers import ExternalIdentity

T = TypeVar("T")

Lock = Literal["share", "update"]
Reading = bool | Literal["each", "fresh"]


# --- storage -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerFilter:
    """Which customers: conditions combine with AND; several values of one with OR.

    `archived`: False the live ones, True the archived ones, None all. `created_before` is
    exclusive, the other bounds inclusive. `phone` is E.164; `email` is compared without case.
    """

    email: Collection[str] = ()
    phone: Collection[str] = ()
    code: Collection[str] = ()
    locale: Collection[Locale] = ()
    sms_opt_out: bool | None = None
    sms_reachability: Collection[Reachability] = ()
    archived: bool | None = False
    created_from: datetime | None = None
    created_before: datetime | None = None
    updated_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFilter:
    """Which orders (deleted ones never); amounts are totals in hundredths, both inclusive."""

    status: Collection[Status] = ()
    customer: Collection[CustomerId] = ()
    currency: Collection[str] = ()
    min_amount: int | None = None
    max_amount: int | None = None
    sms_status: Collection[SmsStatus] = ()
    created_from: datetime | None = None
    created_before: datetime | None = None
    updated_since: datetime | None = None


class Customers(Protocol):
    """The customers of the business. Orderings: created_at, updated_at, name; else BadQuery."""

    @abstractmethod
    async def get(self, customer_id: CustomerId, *, lock: Lock | None = None) -> Customer:
        """Archived ones too. Raises: NotFound."""

    @abstractmethod
    async def get_many(self, ids: Collection[CustomerId]) -> Mapping[CustomerId, Customer]:
        """Those of the ids that exist."""

    @abstractmethod
    async def add(self, customer: Customer) -> None:
        """Raises: EmailTaken (among non-archived, without case), CodeTaken (for ever)."""

    @abstractmethod
    async def save(self, customer: Customer) -> None:
        """Raises: EmailTaken."""

    @abstractmethod
    async def list(self, where: CustomerFilter, page: PageRequest) -> Page[Customer]: ...

    @abstractmethod
    async def search(
        self, query: SearchQuery, where: CustomerFilter, page: PageRequest
    ) -> Page[Customer]:
        """By rank, then newer `updated_at`, then id. Position values: (rank, updated_at)."""

    @abstractmethod
    async def open_orders(self, customer_id: CustomerId) -> int:
        """How many orders are pending, processing or shipped."""


class Orders(Protocol):
    """The orders; deleted ones count as missing. Every order read carries its `sms` picture.

    Orderings: created_at, updated_at, status_changed_at, total_amount (hundredths),
    order_number; else BadQuery.
    """

    @abstractmethod
    async def get(self, order_id: OrderId, *, lock: Lock | None = None) -> Order:
        """Raises: NotFound."""

    @abstractmethod
    async def add(self, order: Order) -> None: ...

    @abstractmethod
    async def save(self, order: Order) -> None: ...

    @abstractmethod
    async def list(self, where: OrderFilter, page: PageRequest) -> Page[Order]: ...

    @abstractmethod
    async def search(
        self, query: SearchQuery, where: OrderFilter, page: PageRequest
    ) -> Page[Order]:
        """As `Customers.search`; also over the fields of the order's customer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueMessage:
    """A leased message with what the policy looks at just before it is handed over.

    `order_version`, `order_deleted` and `customer` are as of now; the notification's row is locked.
    """

    notification: Notification
    order_version: int
    order_deleted: bool
    customer: Customer


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationFilter:
    status: Collection[SmsStatus] = ()
    order: Collection[OrderId] = ()
    customer: Collection[CustomerId] = ()


class Notifications(Protocol):
    """The messages; their table is the outbox. Orderings: created_at."""

    @abstractmethod
    async def add(self, notification: Notification) -> None:
        """Becomes the order's newest one. Raises: nothing for a dedupe key not seen before."""

    @abstractmethod
    async def get(
        self, notification_id: NotificationId, *, lock: Lock | None = None
    ) -> Notification:
        """Raises: NotFound."""

    @abstractmethod
    async def get_many(
        self, ids: Collection[NotificationId], *, lock: Lock | None = None
    ) -> Sequence[Notification]:
        """Those of the ids that exist, in no particular order."""

    @abstractmethod
    async def save(self, *notifications: Notification) -> None: ...

    @abstractmethod
    async def newest(self, order_id: OrderId) -> Notification | None: ...

    @abstractmethod
    async def handled(self, dedupe_key: str) -> bool:
        """Whether there is a message under this key already."""

    @abstractmethod
    async def list(self, where: NotificationFilter, page: PageRequest) -> Page[Notification]: ...

    @abstractmethod
    async def lease_due(
        self, *, now: datetime, until: datetime, most: int
    ) -> Sequence[NotificationId]:
        """Take up to `most` waiting messages that are due and not leased, oldest first.

        Concurrent callers never get the same one. A lease ends by itself at `until`.
        """

    @abstractmethod
    async def next_due_at(self) -> datetime | None:
        """When the next waiting message is due or free of its lease; None when none waits."""

    @abstractmethod
    async def start(self, ids: Collection[NotificationId]) -> Sequence[DueMessage]:
        """Lock those of the ids that still wait, for this unit of work, with what belongs to them.

        Of several callers with the same id exactly one gets it.
        """

    @abstractmethod
    async def release(self, ids: Collection[NotificationId]) -> None:
        """Give leases back early, so that the messages are due again at once."""

    @abstractmethod
    async def stuck(self, *, handed_before: datetime, most: int) -> Sequence[Notification]:
        """Messages still `sending` since before that moment, locked."""

    @abstractmethod
    async def unknown_since(self, *, handed_before: datetime, most: int) -> Sequence[Notification]:
        """Messages `unknown` whose attempt began before that moment, locked."""

    @abstractmethod
    async def by_provider_id(self, provider_id: str) -> Notification | None:
        """Locked for this unit of work."""

    @abstractmethod
    async def open_to(self, phone: str, *, handed_after: datetime) -> Sequence[Notification]:
        """Messages to that E.164 number whose outcome is open, locked; at most two are returned.

        They are `sending` or `unknown`.
        """

    @abstractmethod
    async def texted_at(
        self, phones: Collection[str], *, after: datetime
    ) -> Mapping[str, Sequence[datetime]]:
        """When texts were handed over to those numbers since then (sending, sent, unknown, …)."""

    @abstractmethod
    async def spending(self, *, currency: str, today: datetime, month: datetime) -> Spending:
        """What texts in that currency cost that were handed over since a day and a month began.

        Those count as open that are `sending` or `unknown`, and those that the gateway took without
        a price. The newest quote is the one of the text handed over last.

        Args:
            month: not later than `today`.
        """

    @abstractmethod
    async def resent_at(self, order_id: OrderId, *, after: datetime) -> Sequence[datetime]:
        """When an order's text was sent again by a person since then."""

    @abstractmethod
    async def skip_waiting(self, order_id: OrderId, *, reason: str, at: datetime) -> None:
        """Skip every waiting message of a deleted order."""

    @abstractmethod
    async def ids_of_dead(self) -> Sequence[NotificationId]: ...

    @abstractmethod
    async def keep_report(self, report: DeliveryReport, *, matched: bool) -> bool:
        """Store a report as it came; False when the same one (id and word) is known already."""

    @abstractmethod
    async def kept_reports(self, provider_ids: Collection[str]) -> Sequence[DeliveryReport]:
        """Reports that came before we knew the ids, oldest first; they count as matched now."""

    @abstractmethod
    async def overtaken(self, *, most: int) -> Sequence[str]:
        """Provider ids that are known by now and still have kept reports.

        A report and the answer to its send can be committed in the same instant, and neither
        sees the other.
        """

    @abstractmethod
    async def unclaimed(self, *, handed_after: datetime, most: int) -> Sequence[DeliveryReport]:
        """Kept reports that an `unknown` message may have waited for, oldest first.

        They came from its phone after it was handed over, which was after that moment, and since
        then no other outcome of a text to that phone is open.
        """

    @abstractmethod
    async def forget_reports(self, *, before: datetime, most: int) -> int:
        """Delete up to `most` reports that came by that moment, oldest first; how many.

        What a report has said of its message stands in the message.
        """

    @abstractmethod
    async def pause(self) -> Pause | None:
        """The gateway's trouble, if any."""

    @abstractmethod
    async def set_pause(self, pause: Pause | None) -> None: ...

    @abstractmethod
    async def backlog(self) -> tuple[int, datetime | None]:
        """How many messages wait, and since when the oldest that is due has been waiting."""


class Reports(Protocol):
    """Raw sums for statistics; the formulas are in `savannah.domain.statistics`."""

    @abstractmethod
    async def stamp(self) -> str | None:
        """What names the state of all that this unit of work sees; None if nothing does.

        Whatever was read under an equal stamp, at any time and by any process, is what would be
        read now.
        """

    @abstractmethod
    async def customer(self, customer_id: CustomerId) -> CustomerSums:
        """By currency and status, over the customer's non-deleted orders, and their messages."""

    @abstractmethod
    async def analytics(
        self, *, period: Period, currency: str, customer: CustomerId | None, now: datetime
    ) -> AnalyticsSums:
        """Messages count by the day they were created, for orders of any currency."""


class Events(Protocol):
    """What happened: audit and timeline in one."""

    @abstractmethod
    async def add(self, event: Event) -> None: ...

    @abstractmethod
    async def of(self, subject: str, subject_id: UUID) -> Sequence[Event]:
        """Everything about one thing, oldest first."""

    @abstractmethod
    async def forget_logins(self, *, before: datetime, most: int) -> int:
        """Delete up to `most` of `LOGIN_ACTIONS` up to that moment, oldest first; how many.

        All others stay for ever.
        """


@dataclass(frozen=True, slots=True, order=True)
class IdempotencyRecordKey:
    """Whose key, on what: `operation` is the method and the canonical path."""

    principal: str
    operation: str
    key: str


class Idempotency(Protocol):
    """Answers given under an idempotency key, stored in the transaction of their effect."""

    @abstractmethod
    async def begin(
        self, key: IdempotencyRecordKey, fingerprint: str, *, now: datetime
    ) -> bytes | None:
        """The stored answer, or None: then this unit of work owns the key until it ends.

        Raises:
            IdempotencyKeyReused: the key came with another fingerprint.
            IdempotencyInProgress: another unit of work owns the key now.
        """

    @abstractmethod
    async def finish(
        self, key: IdempotencyRecordKey, fingerprint: str, answer: bytes, *, expires_at: datetime
    ) -> None: ...

    @abstractmethod
    async def forget_expired(self, *, now: datetime, most: int) -> int:
        """Delete up to `most` of what has expired, oldest first; how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFilter:
    """Which accounts: conditions combine with AND; several values of one with OR.

    `login` is a user name or an e-mail address, compared without case.
    """

    login: Collection[str] = ()
    role: Collection[Role] = ()
    is_active: bool | None = None


class Users(Protocol):
    """Accounts; user name and e-mail are unique without case.

    Orderings: created_at, which is when they joined, and username (without case).
    """

    @abstractmethod
    async def get(self, user_id: UserId, *, lock: Lock | None = None) -> User:
        """Raises: NotFound."""

    @abstractmethod
    async def by_login(self, login: str) -> User | None:
        """By user name, else by e-mail, without case."""

    @abstractmethod
    async def add(self, user: User) -> None:
        """Raises: Invalid at `username` (username_taken) or `email` (email_taken)."""

    @abstractmethod
    async def save(self, user: User) -> None:
        """Raises: as `add`."""

    @abstractmethod
    async def list(self) -> Sequence[User]:
        """Everybody, by user name."""

    @abstractmethod
    async def page(self, where: UserFilter, page: PageRequest) -> Page[User]: ...

    @abstractmethod
    async def active_admins(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFilter:
    """Which apps: conditions combine with AND; several values of one with OR."""

    client_type: Collection[ClientType] = ()
    is_active: bool | None = None
    first_party: bool | None = None


class Clients(Protocol):
    """The apps. Orderings: created_at, name (compared as it is written)."""

    @abstractmethod
    async def find(self, client_id: str, *, lock: Lock | None = None) -> Client | None: ...

    @abstractmethod
    async def page(self, where: ClientFilter, page: PageRequest) -> Page[Client]: ...

    @abstractmethod
    async def add(self, client: Client) -> None: ...

    @abstractmethod
    async def save(self, client: Client) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A grant with whose it is; `user` is None for a machine client."""

    grant: Grant
    user: User | None
    client: Client | None


class Grants(Protocol):
    """Grants and their refresh tokens."""

    @abstractmethod
    async def add(self, grant: Grant) -> None: ...

    @abstractmethod
    async def find(self, grant_id: GrantId) -> Grant | None: ...

    @abstractmethod
    async def session(self, grant_id: GrantId) -> Session | None:
        """The grant, revoked or not, with its user and its client, in one query.

        Read on every request. None only when there is no such grant; a user or a client that is
        gone is None in it.
        """

    @abstractmethod
    async def revoke(self, grant_id: GrantId, *, at: datetime) -> None:
        """Revoking twice changes nothing."""

    @abstractmethod
    async def revoke_of_user(self, user_id: UserId, *, at: datetime) -> None: ...

    @abstractmethod
    async def add_refresh(self, token: RefreshToken) -> None: ...

    @abstractmethod
    async def find_refresh(self, digest: str) -> RefreshToken | None: ...

    @abstractmethod
    async def consume_refresh(self, digest: str, successor: str, *, at: datetime) -> bool:
        """Use a refresh token up; of several callers exactly one hears True."""

    @abstractmethod
    async def revoke_of_session(self, session_id: UUID, *, at: datetime) -> None:
        """All grants of one browser session, save those with offline access."""

    @abstractmethod
    async def revoke_of_client(
        self, client_id: str, *, user_id: UserId | None = None, at: datetime
    ) -> None:
        """All grants of one client, or only those of one person."""

    @abstractmethod
    async def forget(self, *, before: datetime, most: int) -> int:
        """Delete grants made by that moment, so long ago that no token of theirs lives; how many.

        Up to `most` of their refresh tokens go first, and then as many of those grants that have
        neither tokens nor codes left. Both count.
        """

    @abstractmethod
    async def clients_of_session(self, session_id: UUID) -> Collection[str]:
        """The ids of the clients that a browser session has logged in to."""


class Handshakes(Protocol):
    """What is under way between a browser, a client and us; each is used once."""

    @abstractmethod
    async def add_code(self, code: AuthorizationCode) -> None: ...

    @abstractmethod
    async def find_code(self, digest: str) -> AuthorizationCode | None: ...

    @abstractmethod
    async def consume_code(self, digest: str, *, at: datetime) -> bool:
        """Use a code up; of several callers exactly one hears True."""

    @abstractmethod
    async def push(self, request: PushedRequest) -> None: ...

    @abstractmethod
    async def take_pushed(self, digest: str, client_id: str) -> PushedRequest | None:
        """A request pushed by that client, once; of several callers exactly one gets it."""

    @abstractmethod
    async def claim(self, digest: str, *, expires_at: datetime) -> bool:
        """Take an id that may be used once, such as an assertion's; False when it was taken."""

    @abstractmethod
    async def forget(self, *, now: datetime, codes_before: datetime, most: int) -> int:
        """Delete pushed requests and ids that have expired, and codes that had by then; how many.

        Up to `most` of each, oldest first.
        """


class BrowserSessions(Protocol):
    @abstractmethod
    async def add(self, session: BrowserSession) -> None: ...

    @abstractmethod
    async def find(self, digest: str) -> BrowserSession | None:
        """By the digest of the cookie's value."""

    @abstractmethod
    async def get(self, session_id: UUID, *, lock: Lock | None = None) -> BrowserSession | None: ...

    @abstractmethod
    async def save(self, session: BrowserSession) -> None: ...

    @abstractmethod
    async def end(self, session_id: UUID, *, at: datetime) -> bool:
        """Of several callers exactly one hears True."""

    @abstractmethod
    async def end_of_user(self, user_id: UserId, *, at: datetime) -> Collection[UUID]:
        """End all sessions of somebody; the ids of those that had not ended before."""

    @abstractmethod
    async def forget(self, *, before: datetime, most: int) -> int:
        """Delete up to `most` of those that had expired by that moment, oldest first; how many."""


class Consents(Protocol):
    @abstractmethod
    async def find(self, user_id: UserId, client_id: str) -> Consent | None: ...

    @abstractmethod
    async def put(self, consent: Consent) -> None:
        """In place of the one there was."""

    @abstractmethod
    async def of_user(self, user_id: UserId) -> Sequence[Consent]:
        """All of somebody's, by the id of the client."""

    @abstractmethod
    async def remove(self, user_id: UserId, client_id: str) -> bool:
        """Of several callers exactly one hears True, when there was one."""


class LogoutNotices(Protocol):
    """Messages to apps that a session is over; their table is an outbox."""

    @abstractmethod
    async def add(self, notice: LogoutNotice) -> None: ...

    @abstractmethod
    async def lease_due(
        self, *, now: datetime, until: datetime, most: int
    ) -> Sequence[LogoutNotice]:
        """Take up to `most` that are due, oldest first; nobody else gets them before `until`."""

    @abstractmethod
    async def postpone(self, notice_id: UUID, *, until: datetime) -> None:
        """It failed; one more attempt is counted."""

    @abstractmethod
    async def remove(self, notice_id: UUID) -> None: ...


class SigningKeys(Protocol):
    @abstractmethod
    async def list(self) -> Sequence[SigningKey]:
        """All of them, newest first."""

    @abstractmethod
    async def add(self, key: SigningKey) -> None: ...

    @abstractmethod
    async def save(self, key: SigningKey) -> None: ...

    @abstractmethod
    async def forget(self, *, before: datetime) -> None:
        """Delete those that had retired, or were revoked, by that moment."""


class UnitOfWork(Protocol):
    """One transaction. Leaving it without `commit()` rolls back; a write may wait for the commit.

    Entering, working and committing raise Unavailable when storage cannot answer.
    """

    customers: Customers
    orders: Orders
    notifications: Notifications
    reports: Reports
    events: Events
    idempotency: Idempotency
    users: Users
    clients: Clients
    grants: Grants
    handshakes: Handshakes
    sessions: BrowserSessions
    consents: Consents
    logout_notices: LogoutNotices
    signing_keys: SigningKeys

    @abstractmethod
    async def __aenter__(self) -> Self: ...

    @abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    @abstractmethod
    async def commit(self) -> None: ...


class Storage(Protocol):
    """Where units of work come from."""

    @abstractmethod
    def __call__(self, *, reading: Reading = False) -> UnitOfWork:
        """A new unit of work. A `reading` one must not write.

        It may see slightly older data, and all its reads see the same moment. With `"each"` every
        read has a moment of its own, which is cheaper where there is but one. With `"fresh"`
        each also sees what is committed now, as a check of somebody's rights must.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Raises: Unavailable."""


# --- the gateway and the queue -------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Sms:
    """One text to one phone, as a gateway needs it; `repr` shows neither."""

    id: NotificationId
    to: str = field(repr=False)
    text: str = field(repr=False)


class SmsGateway(Protocol):
    """Hands one text to a carrier."""

    @abstractmethod
    async def send(self, sms: Sms) -> Outcome:
        """Every outcome is a value; trouble of any kind is one too.

        RefusedSms: it surely did not leave. UnknownOutcome: it may have; the caller must not
        retry blindly.
        """


class JobQueue(Protocol):
    """Carries message ids to whoever sends them; what it loses comes back with the lease."""

    @abstractmethod
    async def enqueue(self, ids: Sequence[NotificationId]) -> None:
        """An id that is queued already may be dropped."""

    @abstractmethod
    def wake(self) -> None:
        """There is something due: tell the relay, if one listens. Never blocks, never fails."""


# --- identity ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessClaims:
    """What an access token of ours says (RFC 9068).

    `resources` are the APIs it is for, ours when none is named; `key_thumbprint` is that of the
    key whose holder alone may use it (RFC 9449).
    """

    subject: str
    client_id: str
    grant_id: GrantId
    scopes: frozenset[str]
    role: str | None
    token_id: UUID
    issued_at: datetime
    expires_at: datetime
    auth_time: datetime | None = None
    resources: tuple[str, ...] = ()
    key_thumbprint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdClaims:
    """What an ID token of ours says (OpenID Connect Core section 2).

    `session_id` is that of the browser session; a grant's where there is none.
    """

    subject: str
    client_id: str
    session_id: UUID
    issued_at: datetime
    expires_at: datetime
    auth_time: datetime
    access_token: str = field(repr=False)
    nonce: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdHint:
    """An ID token of ours that somebody brought back, expired or not."""

    subject: str
    client_id: str
    session_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutClaims:
    """What a logout token of ours says (OpenID Connect Back-Channel Logout 1.0 section 2.4)."""

    subject: str
    client_id: str
    session_id: UUID
    token_id: UUID
    issued_at: datetime
    expires_at: datetime


class Tokens(Protocol):
    """Signs and reads tokens; its keys are in storage, shared by every process."""

    @abstractmethod
    async def sign_access(self, claims: AccessClaims) -> str: ...

    @abstractmethod
    async def sign_id(self, claims: IdClaims) -> str: ...

    @abstractmethod
    async def sign_logout(self, claims: LogoutClaims) -> str: ...

    @abstractmethod
    async def read_access(self, token: str) -> AccessClaims:
        """Raises: InvalidToken, TokenExpired."""

    @abstractmethod
    async def read_hint(self, token: str) -> IdHint:
        """An ID token, expired or not, as long as its key is kept. Raises: InvalidToken."""

    @abstractmethod
    async def public_keys(self) -> Sequence[Mapping[str, object]]:
        """The keys others verify our tokens with, as JSON Web Keys without private members."""

    @abstractmethod
    async def rotate(self) -> str:
        """Let the next key sign from now on; the kid. Older ones go on verifying."""

    @abstractmethod
    async def prepare(self) -> None:
        """See that there is a key that signs, and the next one, published before it is needed.

        Keys that retired or were revoked too long ago for any use are deleted. Making keys is
        slow: whoever serves requests calls this before and beside them.
        """

    @abstractmethod
    async def revoke(self, kid: str) -> None:
        """Drop a key and every token it has signed. Raises: NotFound."""


class LogoutSender(Protocol):
    """Tells one app that a session is over."""

    @abstractmethod
    async def send(self, uri: str, logout_token: str) -> bool:
        """Whether the app has taken it; trouble of any kind is False."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertion:
    """What a client's signed word says of it (RFC 7523 section 3); its signature was right."""

    issuer: str
    subject: str
    audiences: tuple[str, ...]
    token_id: str
    expires_at: datetime
    not_before: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyProof:
    """That somebody holds a key, for one request (RFC 9449 section 4.2).

    `token_digest` is the `ath` of the token it came with.
    """

    thumbprint: str
    method: str
    uri: str
    token_id: str
    issued_at: datetime
    token_digest: str | None


class ForeignProofs(Protocol):
    """Reads what clients have signed with keys of their own."""

    @abstractmethod
    async def read_assertion(self, assertion: str, jwks: Mapping[str, object]) -> Assertion:
        """Raises: InvalidToken."""

    @abstractmethod
    async def claimed_issuer(self, assertion: str) -> str:
        """Whose assertion it says it is, signature unseen. Raises: InvalidToken."""

    @abstractmethod
    async def read_key_proof(self, proof: str) -> KeyProof:
        """Raises: InvalidToken."""


class TrustedIssuers(Protocol):
    """Reads access tokens of other issuers; which ones, and how far, an operator has said."""

    @abstractmethod
    async def read(self, token: str) -> ExternalIdentity | None:
        """Whom the token speaks for; None when it names no trusted issuer, as our own do.

        Nothing outside is asked for a token that names no trusted issuer. An issuer that does not
        answer holds up only those that wait for its own keys, and only for seconds.

        Raises:
            InvalidToken, TokenExpired; Unavailable while the issuer's keys cannot be had.
        """


class PasswordHasher(Protocol):
    """Slow on purpose; runs in a bounded number of threads."""

    @abstractmethod
    async def hash(self, password: str) -> str: ...

    @abstractmethod
    async def verify(self, password: str, password_hash: str | None) -> tuple[bool, str | None]:
        """Whether it fits, and a new hash when the stored one is outdated.

        None for the hash costs the same time and never fits.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    allowed: bool
    limit: int
    remaining: int
    reset_after: timedelta


class RateLimiter(Protocol):
    """Counts per key in fixed windows that begin with the first hit."""

    @abstractmethod
    async def hit(self, key: str, rate: Rate) -> LimitState:
        """Count one; not allowed once more than `rate.count` came in the window."""

    @abstractmethod
    async def peek(self, key: str, rate: Rate) -> LimitState:
        """The state without counting."""

    @abstractmethod
    async def forget(self, key: str) -> None: ...


# --- the world -----------------------------------------------------------------------------------


class Cache(Protocol):
    """Keeps what was computed for a while; it may lose anything at any time, and never fails."""

    @abstractmethod
    async def get(self, key: str, kind: type[T]) -> T | None:
        """What was put last under the key, if it is still there and of that kind."""

    @abstractmethod
    async def put(self, key: str, value: object, *, keep: timedelta) -> None:
        """Keep it no longer than that."""


class Clock(Protocol):
    @abstractmethod
    def now(self) -> datetime:
        """Aware, in UTC."""


class Randomness(Protocol):
    """Ids and secrets."""

    @abstractmethod
    def uuid(self) -> UUID:
        """A version 7 UUID (RFC 9562): grows with time."""

    @abstractmethod
    def symbols(self, alphabet: str, length: int) -> str: ...

    @abstractmethod
    def fraction(self) -> float:
        """0 up to, but not, 1."""


class Metrics(Protocol):
    """Business counters."""

    @abstractmethod
    def order_created(self) -> None: ...

    @abstractmethod
    def sms(self, event: SmsEvent, status: SmsStatus) -> None:
        """A message reached this state."""

    @abstractmethod
    def sms_cost(self, currency: str, units: int) -> None:
        """In ten-thousandths."""
