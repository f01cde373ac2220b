"""Storage on SQLite and Postgres, by SQLAlchemy Core."""

from savannah.adapters.sql.schema import migrate, schema_is_current, searches_are_indexed
from savannah.adapters.sql.unit_of_work import SqlStorage, SqlUnitOfWork

__all__ = ["SqlStorage", "SqlUnitOfWork", "migrate", "schema_is_current", "searches_are_indexed"]
