"""Messages keep the trace context of the request that caused them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("notifications", sa.Column("traceparent", WORDS))
    op.add_column("notifications", sa.Column("tracestate", WORDS))
