"""What happened, and answers given under idempotency keys, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    true,
)

from savannah.adapters.sql.retention import forget, oldest
from savannah.adapters.sql.tables import ABOUT_A_LOGIN, events, idempotency_keys
from savannah.adapters.sql.transaction import Params, Transaction
from savannah.application.ports import Events, Idempotency, IdempotencyRecordKey
from savannah.domain.errors import IdempotencyInProgress, IdempotencyKeyReused
from savannah.domain.events import Event

_ADD_EVENT: Final = insert(events)
_EVENTS_OF: Final = (
    select(events)
    .where(
        events.c.subject_id == bindparam("subject_id"),
        events.c.subject == bindparam("subject"),
    )
    .order_by(events.c.at, events.c.id)
)
_FORGET_LOGINS: Final = (oldest(events.c.at, ABOUT_A_LOGIN),)


class SqlEvents(Events):
    """Events as one transaction sees them."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def add(self, event: Event) -> None:
        values = {
            "id": event.id,
            "at": event.at,
            "actor": event.actor,
            "action": event.action,
            "subject": event.subject,
            "subject_id": event.subject_id,
            "version": event.version,
            "data": dict(event.data),
            "request_id": event.request_id,
        }
        self._transaction.later(_ADD_EVENT, values)

    async def of(self, subject: str, subject_id: UUID) -> Sequence[Event]:
        values = {"subject": subject, "subject_id": subject_id}
        return [
            Event(
                id=row.id,
                at=row.at,
                actor=row.actor,
                action=row.action,
                subject=row.subject,
                subject_id=row.subject_id,
                version=row.version,
                data=row.data,
                request_id=row.request_id,
            )
            for row in await self._transaction.all(_EVENTS_OF, values)
        ]

    async def forget_logins(self, *, before: datetime, most: int) -> int:
        return await forget(self._transaction, _FORGET_LOGINS, moment=before, most=most)


# --- idempotency ---------------------------------------------------------------------------------

_k = idempotency_keys.c
_IS_KEY: Final = and_(
    _k.principal == bindparam("of_principal"),
    _k.operation == bindparam("of_operation"),
    _k.key == bindparam("of_key"),
)
_owned: Final = select(
    func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger)).label("owned")
).cte("owned")
# Postgres looks before it knows that it owns the key, so an answer committed in between is not
# seen; storing a second one then breaks the primary key, and the caller is told to try again.
_FIND: Final[dict[str, Select[Any]]] = {
    "sqlite": select(true().label("owned"), _k.fingerprint, _k.answer, _k.expires_at).where(
        _IS_KEY
    ),
    "postgresql": select(_owned.c.owned, _k.fingerprint, _k.answer, _k.expires_at).select_from(
        _owned.outerjoin(idempotency_keys, _IS_KEY)
    ),
}
_KEEP: Final = insert(idempotency_keys)
_FORGET: Final = delete(idempotency_keys).where(_IS_KEY)
_FORGET_EXPIRED: Final = (oldest(_k.expires_at),)


class SqlIdempotency(Idempotency):
    """Answers as one transaction sees them.

    A key belongs to one transaction at a time: within this process by a set of keys, between
    processes by an advisory lock on Postgres; on SQLite another process waits for its turn.
    """

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def begin(
        self, key: IdempotencyRecordKey, fingerprint: str, *, now: datetime
    ) -> bytes | None:
        self._transaction.own(key)
        dialect = self._transaction.dialect
        values = _key_values(key)
        if dialect == "postgresql":
            values["lock"] = _lock_number(key)
        row = await self._transaction.first(_FIND[dialect], values)
        if row is not None and not row.owned:
            raise IdempotencyInProgress
        if row is None or row.expires_at is None:
            return None
        if row.expires_at <= now:
            self._transaction.later(_FORGET, _key_values(key))
            return None
        if row.fingerprint != fingerprint:
            raise IdempotencyKeyReused
        return bytes(row.answer)

    async def finish(
        self,
        key: IdempotencyRecordKey,
        fingerprint: str,
        answer: bytes,
        *,
        expires_at: datetime,
    ) -> None:
        values = {
            "principal": key.principal,
            "operation": key.operation,
            "key": key.key,
            "fingerprint": fingerprint,
            "answer": answer,
            "expires_at": expires_at,
        }
        self._transaction.later(_KEEP, values)

    async def forget_expired(self, *, now: datetime, most: int) -> int:
        return await forget(self._transaction, _FORGET_EXPIRED, moment=now, most=most)


def _key_values(key: IdempotencyRecordKey) -> Params:
    return {
        "of_principal": key.principal,
        "of_operation": key.operation,
        "of_key": key.key,
    }


def _lock_number(key: IdempotencyRecordKey) -> int:
    """The key as one of Postgres's 64-bit lock numbers."""
    named = f"{key.principal}\0{key.operation}\0{key.key}"
    return int.from_bytes(blake2b(named.encode(), digest_size=8).digest(), signed=True)
