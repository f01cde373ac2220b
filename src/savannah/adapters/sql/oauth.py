"""Codes, pushed requests, browser sessions, consents and logout notices in SQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Executable, Row, bindparam, delete, insert, select, update

from savannah.adapters.sql.retention import forget, oldest
from savannah.adapters.sql.tables import (
    authorization_codes,
    browser_sessions,
    claimed_ids,
    consents,
    logout_notices,
    pushed_requests,
)
from savannah.adapters.sql.transaction import Params, Transaction, insert_of
from savannah.application.ports import (
    BrowserSessions,
    Consents,
    Handshakes,
    Lock,
    LogoutNotices,
)
from savannah.domain.identity import UserId
from savannah.domain.oauth import (
    AuthorizationCode,
    BrowserSession,
    Consent,
    LogoutNotice,
    PushedRequest,
)

# --- codes, pushed requests, ids -----------------------------------------------------------------

_codes: Final = authorization_codes.c
_ADD_CODE: Final = insert(authorization_codes)
_FIND_CODE: Final = select(authorization_codes).where(_codes.digest == bindparam("of_digest"))
# One statement decides; a second one waits for the first to commit and then finds nothing.
_CONSUME_CODE: Final = (
    update(authorization_codes)
    .where(_codes.digest == bindparam("of_digest"), _codes.consumed_at.is_(None))
    .values(consumed_at=bindparam("at"))
    .returning(_codes.digest)
)
_PUSH: Final = insert(pushed_requests)
_TAKE_PUSHED: Final = (
    delete(pushed_requests)
    .where(
        pushed_requests.c.digest == bindparam("of_digest"),
        pushed_requests.c.client_id == bindparam("of_client"),
    )
    .returning(*pushed_requests.c)
)
_FORGET: Final = (oldest(pushed_requests.c.expires_at), oldest(claimed_ids.c.expires_at))
_FORGET_CODES: Final = (oldest(_codes.expires_at),)


@cache
def _claim(dialect: str) -> Executable:
    claimed: Executable = (
        insert_of(dialect)(claimed_ids)
        .on_conflict_do_nothing(index_elements=["digest"])
        .returning(claimed_ids.c.digest)
    )
    return claimed


class SqlHandshakes(Handshakes):
    """What is under way, as one transaction sees it."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def add_code(self, code: AuthorizationCode) -> None:
        self._transaction.later(
            _ADD_CODE,
            {
                "digest": code.digest,
                "grant_id": code.grant_id,
                "client_id": code.client_id,
                "redirect_uri": code.redirect_uri,
                "code_challenge": code.code_challenge,
                "created_at": code.created_at,
                "expires_at": code.expires_at,
                "consumed_at": code.consumed_at,
            },
        )

    async def find_code(self, digest: str) -> AuthorizationCode | None:
        row = await self._transaction.first(_FIND_CODE, {"of_digest": digest})
        if row is None:
            return None
        return AuthorizationCode(
            digest=row.digest,
            grant_id=row.grant_id,
            client_id=row.client_id,
            redirect_uri=row.redirect_uri,
            code_challenge=row.code_challenge,
            created_at=row.created_at,
            expires_at=row.expires_at,
            consumed_at=row.consumed_at,
        )

    async def consume_code(self, digest: str, *, at: datetime) -> bool:
        row = await self._transaction.first(_CONSUME_CODE, {"of_digest": digest, "at": at})
        return row is not None

    async def push(self, request: PushedRequest) -> None:
        self._transaction.later(
            _PUSH,
            {
                "digest": request.digest,
                "client_id": request.client_id,
                "parameters": [list(pair) for pair in request.parameters],
                "expires_at": request.expires_at,
            },
        )

    async def take_pushed(self, digest: str, client_id: str) -> PushedRequest | None:
        values = {"of_digest": digest, "of_client": client_id}
        row = await self._transaction.first(_TAKE_PUSHED, values)
        if row is None:
            return None
        return PushedRequest(
            digest=row.digest,
            client_id=row.client_id,
            parameters=tuple((name, value) for name, value in row.parameters),
            expires_at=row.expires_at,
        )

    async def claim(self, digest: str, *, expires_at: datetime) -> bool:
        values = {"digest": digest, "expires_at": expires_at}
        row = await self._transaction.first(_claim(self._transaction.dialect), values)
        return row is not None

    async def forget(self, *, now: datetime, codes_before: datetime, most: int) -> int:
        codes = await forget(self._transaction, _FORGET_CODES, moment=codes_before, most=most)
        return codes + await forget(self._transaction, _FORGET, moment=now, most=most)


# --- browser sessions and consents ---------------------------------------------------------------

_sessions: Final = browser_sessions.c
_ADD_SESSION: Final = insert(browser_sessions)
_FIND_SESSION: Final = select(browser_sessions).where(_sessions.digest == bindparam("of_digest"))
_GET_SESSION: Final = select(browser_sessions).where(_sessions.id == bindparam("of_id"))
_GET_SESSION_LOCKED: Final[dict[Lock | None, Any]] = {
    None: _GET_SESSION,
    "share": _GET_SESSION.with_for_update(read=True),
    "update": _GET_SESSION.with_for_update(),
}
_SAVE_SESSION: Final = update(browser_sessions).where(_sessions.id == bindparam("of_id"))
_END: Final = (
    update(browser_sessions)
    .where(_sessions.id == bindparam("of_id"), _sessions.ended_at.is_(None))
    .values(ended_at=bindparam("at"))
    .returning(_sessions.id)
)
_END_OF_USER: Final = (
    update(browser_sessions)
    .where(_sessions.user_id == bindparam("of_user"), _sessions.ended_at.is_(None))
    .values(ended_at=bindparam("at"))
    .returning(_sessions.id)
)
_FORGET_SESSIONS: Final = (oldest(_sessions.expires_at),)


class SqlBrowserSessions(BrowserSessions):
    """Browser sessions as one transaction sees them."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def add(self, session: BrowserSession) -> None:
        self._transaction.later(_ADD_SESSION, {**_session_values(session), "id": session.id})

    async def find(self, digest: str) -> BrowserSession | None:
        return _session_of(await self._transaction.first(_FIND_SESSION, {"of_digest": digest}))

    async def get(self, session_id: UUID, *, lock: Lock | None = None) -> BrowserSession | None:
        statement = _GET_SESSION_LOCKED[lock]
        return _session_of(await self._transaction.first(statement, {"of_id": session_id}))

    async def save(self, session: BrowserSession) -> None:
        self._transaction.later(_SAVE_SESSION, {**_session_values(session), "of_id": session.id})

    async def end(self, session_id: UUID, *, at: datetime) -> bool:
        return await self._transaction.first(_END, {"of_id": session_id, "at": at}) is not None

    async def end_of_user(self, user_id: UserId, *, at: datetime) -> Collection[UUID]:
        rows = await self._transaction.all(_END_OF_USER, {"at": at, "of_user": user_id})
        return [row.id for row in rows]

    async def forget(self, *, before: datetime, most: int) -> int:
        return await forget(self._transaction, _FORGET_SESSIONS, moment=before, most=most)


def _session_values(session: BrowserSession) -> Params:
    return {
        "digest": session.digest,
        "user_id": session.user_id,
        "auth_time": session.auth_time,
        "created_at": session.created_at,
        "expires_at": session.expires_at,
        "ended_at": session.ended_at,
    }


def _session_of(row: Row[Any] | None) -> BrowserSession | None:
    if row is None:
        return None
    return BrowserSession(
        id=row.id,
        digest=row.digest,
        user_id=row.user_id,
        auth_time=row.auth_time,
        created_at=row.created_at,
        expires_at=row.expires_at,
        ended_at=row.ended_at,
    )


_FIND_CONSENT: Final = select(consents).where(
    consents.c.user_id == bindparam("of_user"), consents.c.client_id == bindparam("of_client")
)


_CONSENTS_OF_USER: Final = (
    select(consents)
    .where(consents.c.user_id == bindparam("of_user"))
    .order_by(consents.c.client_id)
)
_REMOVE_CONSENT: Final = (
    delete(consents)
    .where(
        consents.c.user_id == bindparam("of_user"), consents.c.client_id == bindparam("of_client")
    )
    .returning(consents.c.client_id)
)


@cache
def _put_consent(dialect: str) -> Executable:
    statement = insert_of(dialect)(consents)
    given = {name: statement.excluded[name] for name in ("scopes", "given_at")}
    put: Executable = statement.on_conflict_do_update(
        index_elements=["user_id", "client_id"], set_=given
    )
    return put


class SqlConsents(Consents):
    """Consents as one transaction sees them."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def find(self, user_id: UserId, client_id: str) -> Consent | None:
        values = {"of_user": user_id, "of_client": client_id}
        row = await self._transaction.first(_FIND_CONSENT, values)
        return None if row is None else _consent_of(row)

    async def of_user(self, user_id: UserId) -> Sequence[Consent]:
        rows = await self._transaction.all(_CONSENTS_OF_USER, {"of_user": user_id})
        return [_consent_of(row) for row in rows]

    async def remove(self, user_id: UserId, client_id: str) -> bool:
        values = {"of_user": user_id, "of_client": client_id}
        return await self._transaction.first(_REMOVE_CONSENT, values) is not None

    async def put(self, consent: Consent) -> None:
        self._transaction.later(
            _put_consent(self._transaction.dialect),
            {
                "user_id": consent.user_id,
                "client_id": consent.client_id,
                "scopes": sorted(consent.scopes),
                "given_at": consent.given_at,
            },
        )


def _consent_of(row: Row[Any]) -> Consent:
    return Consent(
        user_id=row.user_id,
        client_id=row.client_id,
        scopes=frozenset(row.scopes),
        given_at=row.given_at,
    )


# --- logout notices ------------------------------------------------------------------------------

_notices: Final = logout_notices.c
_ADD_NOTICE: Final = insert(logout_notices)
_DUE: Final = (
    select(logout_notices)
    .where(_notices.due_at <= bindparam("now"))
    .order_by(_notices.due_at, _notices.id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_POSTPONE: Final = (
    update(logout_notices)
    .where(_notices.id == bindparam("of_id"))
    .values(due_at=bindparam("until"), attempts=_notices.attempts + 1)
)
_REMOVE: Final = delete(logout_notices).where(_notices.id == bindparam("of_id"))


class SqlLogoutNotices(LogoutNotices):
    """Logout notices as one transaction sees them; a lease is a later due time."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def add(self, notice: LogoutNotice) -> None:
        self._transaction.later(
            _ADD_NOTICE,
            {
                "id": notice.id,
                "client_id": notice.client_id,
                "uri": notice.uri,
                "user_id": notice.user_id,
                "session_id": notice.session_id,
                "created_at": notice.created_at,
                "due_at": notice.due_at,
                "attempts": notice.attempts,
            },
        )

    async def lease_due(
        self, *, now: datetime, until: datetime, most: int
    ) -> Sequence[LogoutNotice]:
        def lease(connection: Connection) -> Sequence[Row[Any]]:
            rows = connection.execute(_DUE, {"now": now, "most": most}).all()
            if rows:
                taken = update(logout_notices).where(_notices.id.in_([row.id for row in rows]))
                connection.execute(taken.values(due_at=until))
            return rows

        return [
            LogoutNotice(
                id=row.id,
                client_id=row.client_id,
                uri=row.uri,
                user_id=row.user_id,
                session_id=row.session_id,
                created_at=row.created_at,
                due_at=row.due_at,
                attempts=row.attempts,
            )
            for row in await self._transaction.run(lease)
        ]

    async def postpone(self, notice_id: UUID, *, until: datetime) -> None:
        self._transaction.later(_POSTPONE, {"of_id": notice_id, "until": until})

    async def remove(self, notice_id: UUID) -> None:
        self._transaction.later(_REMOVE, {"of_id": notice_id})
