"""What happened to a thing, who did it and when: one row is both audit entry and timeline entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact about one subject (`order`, `customer`, `user`, `client`, `notification`).

    `action` is `<subject>.<past participle>`; `data` holds plain JSON values and never a phone
    number, an e-mail address or a message text.
    """

    id: UUID
    at: datetime
    actor: str
    action: str
    subject: str
    subject_id: UUID
    version: int | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    request_id: str | None = None


LOGIN_ACTIONS: Final = frozenset(
    {
        "client.logged_in",
        "client.logged_out",
        "client.login_failed",
        "client.token_revoked",
        "user.code_replayed",
        "user.logged_in",
        "user.logged_out",
        "user.login_failed",
        "user.password_change_failed",
        "user.refresh_reused",
        "user.token_revoked",
    }
)
"""What is done with an account or an app, or tried; every other action changes something.

There is one for each login, and for each guess of a stranger, so they are kept for a time only.
"""
