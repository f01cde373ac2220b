"""How moments, ids and text are kept: the same values from SQLite and from Postgres."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Dialect, LargeBinary, Text, Uuid
from sqlalchemy.types import TypeDecorator, TypeEngine

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """A moment: whole microseconds since 1970 on SQLite, `timestamptz` on Postgres.

    Raises: ValueError, for a time without a zone.
    """

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        return dialect.type_descriptor(BigInteger())

    def bind_processor(self, dialect: Dialect) -> Any:
        return _aware if dialect.name == "postgresql" else super().bind_processor(dialect)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        del dialect
        return None if value is None else (_aware(value) - _EPOCH) // _MICROSECOND

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        if dialect.name == "postgresql":
            return None  # its driver gives moments in UTC
        return super().result_processor(dialect, coltype)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        del dialect
        if value is None:
            return None
        return _EPOCH + timedelta(microseconds=value)


def _aware(value: Any) -> Any:
    if value is not None and value.tzinfo is None:
        raise ValueError("a moment needs a time zone")
    return value


class Uid(TypeDecorator[UUID]):
    """An id: 16 bytes on SQLite, `uuid` on Postgres; both sort as UUIDs do in Python."""

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(Uuid())
        return dialect.type_descriptor(LargeBinary(16))

    def bind_processor(self, dialect: Dialect) -> Any:
        return None if dialect.name == "postgresql" else super().bind_processor(dialect)

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> Any:
        del dialect
        return None if value is None else value.bytes

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        if dialect.name == "postgresql":
            return None  # its driver gives a subclass of UUID, which is as good
        return super().result_processor(dialect, coltype)

    def process_result_value(self, value: Any, dialect: Dialect) -> UUID | None:
        del dialect
        return None if value is None else UUID(bytes=value)


class Words(TypeDecorator[str]):
    """Text that sorts by code point, as Python does.

    What neither database can hold (NUL, lone surrogates) becomes U+FFFD: the domain lets none of
    it in, but logins and gateway reports come from strangers.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        # As it is: the driver's own string type would be VARCHAR in the schema.
        return Text(collation="C" if dialect.name == "postgresql" else None)

    def bind_processor(self, dialect: Dialect) -> Any:
        return _storable if dialect.name == "postgresql" else super().bind_processor(dialect)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        del dialect
        return _storable(value)


def _storable(value: str | None) -> str | None:
    if value is None or (value.isascii() and "\0" not in value):
        return value
    return (
        value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
    )
