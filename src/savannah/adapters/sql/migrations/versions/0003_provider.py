"""The OpenID provider: codes, browser sessions, consents, pushed requests, logout notices.

A migration is a frozen picture: it spells out its types and does not look at `tables`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

INSTANT = sa.BigInteger().with_variant(sa.TIMESTAMP(timezone=True), "postgresql")
UID = sa.LargeBinary(16).with_variant(sa.Uuid(), "postgresql")
WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("clients", sa.Column("metadata", sa.JSON()))
    op.add_column("grants", sa.Column("resources", sa.JSON()))
    op.add_column("grants", sa.Column("session_id", UID))
    op.add_column("grants", sa.Column("offline", sa.Boolean()))
    op.add_column("grants", sa.Column("nonce", WORDS))
    op.add_column("grants", sa.Column("auth_time", INSTANT))
    op.create_index("ix_grants_client_id", "grants", ["client_id"])
    op.create_index("ix_grants_session_id", "grants", ["session_id"])
    op.create_index("ix_grants_created_at", "grants", ["created_at"])
    op.create_index("ix_refresh_tokens_expires_at", "refresh_tokens", ["expires_at"])
    op.add_column("refresh_tokens", sa.Column("successor", WORDS))
    op.add_column("refresh_tokens", sa.Column("key_thumbprint", WORDS))
    op.add_column("signing_keys", sa.Column("activated_at", INSTANT))
    op.add_column("signing_keys", sa.Column("revoked_at", INSTANT))
    op.execute("UPDATE signing_keys SET activated_at = created_at")
    op.create_table(
        "authorization_codes",
        sa.Column("digest", WORDS, nullable=False),
        sa.Column("grant_id", UID, nullable=False),
        sa.Column("client_id", WORDS, nullable=False),
        sa.Column("redirect_uri", WORDS, nullable=False),
        sa.Column("code_challenge", WORDS),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("consumed_at", INSTANT),
        sa.PrimaryKeyConstraint("digest", name="pk_authorization_codes"),
        sa.ForeignKeyConstraint(
            ["grant_id"], ["grants.id"], name="fk_authorization_codes_grant_id"
        ),
    )
    op.create_index("ix_authorization_codes_grant_id", "authorization_codes", ["grant_id"])
    op.create_index("ix_authorization_codes_expires_at", "authorization_codes", ["expires_at"])
    op.create_table(
        "pushed_requests",
        sa.Column("digest", WORDS, nullable=False),
        sa.Column("client_id", WORDS, nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_pushed_requests"),
    )
    op.create_index("ix_pushed_requests_expires_at", "pushed_requests", ["expires_at"])
    op.create_table(
        "claimed_ids",
        sa.Column("digest", WORDS, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_claimed_ids"),
    )
    op.create_index("ix_claimed_ids_expires_at", "claimed_ids", ["expires_at"])
    op.create_table(
        "browser_sessions",
        sa.Column("id", UID, nullable=False),
        sa.Column("digest", WORDS, nullable=False),
        sa.Column("user_id", UID, nullable=False),
        sa.Column("auth_time", INSTANT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name="pk_browser_sessions"),
        sa.UniqueConstraint("digest", name="uq_browser_sessions_digest"),
    )
    op.create_index("ix_browser_sessions_user_id", "browser_sessions", ["user_id"])
    op.create_index("ix_browser_sessions_expires_at", "browser_sessions", ["expires_at"])
    op.create_table(
        "consents",
        sa.Column("user_id", UID, nullable=False),
        sa.Column("client_id", WORDS, nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("given_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "client_id", name="pk_consents"),
    )
    op.create_table(
        "logout_notices",
        sa.Column("id", UID, nullable=False),
        sa.Column("client_id", WORDS, nullable=False),
        sa.Column("uri", WORDS, nullable=False),
        sa.Column("user_id", UID, nullable=False),
        sa.Column("session_id", UID, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("due_at", INSTANT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_logout_notices"),
    )
    op.create_index("ix_logout_notices_due_at", "logout_notices", ["due_at"])
