"""Indexes for the filters of customers that match few of many.

Made while others write; see `schema.make_index`.
"""

from alembic import op

from savannah.adapters.sql.schema import make_index

revision = "0002"
down_revision = "0001"

INDEXES = {
    "ix_customers_archived": "ON customers (created_at, id) WHERE archived_at IS NOT NULL",
    "ix_customers_sms_opt_out": "ON customers (created_at, id) WHERE sms_opt_out",
    "ix_customers_locale": "ON customers (locale, created_at, id)",
}


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for name, definition in INDEXES.items():
            op.execute(f"CREATE INDEX {name} {definition}")
        return
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            make_index(op.get_bind(), name, definition)
