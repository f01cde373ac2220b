"""Indexes for filters that match few of many, and for whole fields in searches.

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
    "ix_orders_deleted": "ON orders (id) WHERE deleted_at IS NOT NULL",
}
WHOLES = {
    "ix_orders_wholes": (
        "ON orders USING gin ((ARRAY[lower(number), E'\\n' || number_compact, item_folded,"
        " notes_folded])) WITH (gin_pending_list_limit = 512) WHERE deleted_at IS NULL"
    ),
    "ix_customers_wholes": (
        "ON customers USING gin ((ARRAY[name_folded, email_folded, code_folded]))"
        " WITH (gin_pending_list_limit = 512)"
    ),
}


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for name, definition in INDEXES.items():
            op.execute(f"CREATE INDEX {name} {definition}")
        return
    with op.get_context().autocommit_block():
        for name, definition in (INDEXES | WHOLES).items():
            make_index(op.get_bind(), name, definition)
