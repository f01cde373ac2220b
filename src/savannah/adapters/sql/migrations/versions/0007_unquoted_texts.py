"""An index of the messages that may cost something nobody has quoted; budgets count them.

Made while others write; see `schema.make_index`.
"""

from alembic import op

from savannah.adapters.sql.schema import make_index

revision = "0007"
down_revision = "0006"

NAME = "ix_notifications_unquoted"
DEFINITION = (
    "ON notifications (handed_at) WHERE cost_units IS NULL"
    " AND (status IN ('sending', 'unknown') OR provider_id IS NOT NULL)"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"CREATE INDEX {NAME} {DEFINITION}")
        return
    with op.get_context().autocommit_block():
        make_index(op.get_bind(), NAME, DEFINITION)
