"""An index of the delivery reports whose message is not known.

Made while others write; see `schema.make_index`.
"""

from alembic import op

from savannah.adapters.sql.schema import make_index

revision = "0005"
down_revision = "0004"

NAME = "ix_delivery_reports_unmatched"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"CREATE INDEX {NAME} ON delivery_reports (received_at) WHERE matched IS 0")
        return
    with op.get_context().autocommit_block():
        make_index(op.get_bind(), NAME, "ON delivery_reports (received_at) WHERE matched IS false")
