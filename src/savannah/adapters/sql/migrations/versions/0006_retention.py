"""Indexes to find what has been kept long enough, and one less that nothing asks for any more.

Made and dropped while others write; see `schema.make_index`.
"""

from alembic import op

from savannah.adapters.sql.schema import make_index

revision = "0006"
down_revision = "0005"

INDEXES = {
    "ix_delivery_reports_received_at": "ON delivery_reports (received_at)",
    "ix_events_logins": (
        "ON events (at, id) WHERE action IN ('client.logged_in', 'client.logged_out',"
        " 'client.login_failed', 'client.token_revoked', 'user.code_replayed', 'user.logged_in',"
        " 'user.logged_out', 'user.login_failed', 'user.password_change_failed',"
        " 'user.refresh_reused', 'user.token_revoked')"
    ),
}
# Refresh tokens go with their grants, which are found by their own age.
NEEDLESS = "ix_refresh_tokens_expires_at"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for name, definition in INDEXES.items():
            op.execute(f"CREATE INDEX {name} {definition}")
        op.execute(f"DROP INDEX {NEEDLESS}")
        return
    with op.get_context().autocommit_block():
        for name, definition in INDEXES.items():
            make_index(op.get_bind(), name, definition)
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NEEDLESS}")
