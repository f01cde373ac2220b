"""Making one call happen once: the answer is stored in the transaction of its effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Generic, TypeVar

from savannah.application.ports import IdempotencyRecordKey, UnitOfWork
from savannah.domain.access import Caller

T = TypeVar("T")

KEPT_FOR: Final = timedelta(hours=24)


class AlreadyDone(Exception):
    """The call was made before under this key; `answer` is what it got then."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("already done")
        self.answer = answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Once(Generic[T]):
    """An idempotency key with what it stands for.

    Attributes:
        operation: method and canonical path.
        fingerprint: a digest of the request's body.
        render: turns the use case's result into the answer that a repeat gets, byte for byte.
    """

    operation: str
    key: str
    fingerprint: str
    render: Callable[[T], bytes]


async def begin(once: Once[T] | None, uow: UnitOfWork, *, by: Caller, now: datetime) -> None:
    """Own the key for this unit of work.

    Raises:
        AlreadyDone: with the stored answer.
        IdempotencyKeyReused: another body came with the same key.
        IdempotencyInProgress: the first call is still running.
    """
    if once is None:
        return
    key = IdempotencyRecordKey(by.principal, once.operation, once.key)
    answer = await uow.idempotency.begin(key, once.fingerprint, now=now)
    if answer is not None:
        raise AlreadyDone(answer)


async def finish(
    once: Once[T] | None, uow: UnitOfWork, result: T, *, by: Caller, now: datetime
) -> None:
    """Store the answer; it becomes visible with the effect, or not at all."""
    if once is None:
        return
    key = IdempotencyRecordKey(by.principal, once.operation, once.key)
    await uow.idempotency.finish(
        key, once.fingerprint, once.render(result), expires_at=now + KEPT_FOR
    )
