"""Use cases on browser sessions: who is logged in here, logging out, and telling the apps.

Source: OpenID Connect RP-Initiated Logout 1.0 and Back-Channel Logout 1.0.
"""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final
from uuid import UUID

from savannah.application.identity import AuditLog, IdentitySettings
from savannah.application.passwords import Passwords, Proof
from savannah.application.ports import (
    Clock,
    IdHint,
    LogoutClaims,
    LogoutSender,
    Randomness,
    Storage,
    Tokens,
    UnitOfWork,
)
from savannah.domain.clients import Client
from savannah.domain.errors import InvalidToken, NotFound
from savannah.domain.identity import ALPHANUMERIC, SECRET_LENGTH, User, UserId, digest
from savannah.domain.oauth import (
    BrowserSession,
    LogoutNotice,
    OAuthError,
    Parameters,
    UnsafeRequest,
)

LOGOUT_TOKEN_TTL: Final = timedelta(minutes=2)
# After each failure the next attempt waits this much longer; an app that stays away for a day
# finds out with its next refresh anyway.
_FIRST_WAIT: Final = timedelta(seconds=5)
_ATTEMPTS_MOST: Final = 12
_LEASE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedIn:
    """Somebody at a browser; `cookie` is the secret value that the browser holds."""

    session: BrowserSession
    user: User
    cookie: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutRequest:
    """A sound logout request: where to go afterwards, and whether the person has to confirm.

    `return_to` is None when the answer is a page of ours.
    """

    return_to: str | None
    state: str | None
    confirm: bool
    session_id: UUID | None


class Sessions:
    """Browser sessions, their beginning and their end."""

    def __init__(
        self,
        *,
        storage: Storage,
        tokens: Tokens,
        passwords: Passwords,
        sender: LogoutSender,
        audit: AuditLog,
        clock: Clock,
        randomness: Randomness,
        settings: IdentitySettings,
    ) -> None:
        self._storage = storage
        self._tokens = tokens
        self._passwords = passwords
        self._sender = sender
        self._audit = audit
        self._clock = clock
        self._randomness = randomness
        self._settings = settings

    def new_cookie(self) -> str:
        """A value for the cookie of a browser we have not seen yet."""
        return self._randomness.symbols(ALPHANUMERIC, SECRET_LENGTH)

    @staticmethod
    def csrf_token(cookie: str) -> str:
        """What forms for this browser carry: nobody else can know it."""
        return hmac.digest(cookie.encode(), b"savannah csrf", "sha256").hex()

    async def current(self, cookie: str | None) -> LoggedIn | None:
        """Who is logged in with this cookie."""
        if cookie is None:
            return None
        async with self._storage(reading="fresh") as uow:
            session = await uow.sessions.find(digest(cookie))
            if session is None or not session.is_live(self._clock.now()):
                return None
            try:
                user = await uow.users.get(session.user_id)
            except NotFound:
                return None
        return LoggedIn(session=session, user=user, cookie=cookie) if user.is_active else None

    async def open(self, proof: Proof, *, cookie: str | None) -> LoggedIn | None:
        """A session with a new cookie; None when the password was changed meanwhile.

        The same person keeps the session, so that apps go on knowing it; of somebody else the
        former session ends.

        Raises: AccountDisabled.
        """
        before = await self.current(cookie)
        now, value = self._clock.now(), self.new_cookie()
        async with self._storage() as uow:
            user = await self._passwords.admit(uow, proof)
            if user is None:
                return None
            kept = None
            if before is not None and before.user.id == user.id:
                kept = await uow.sessions.get(before.session.id, lock="update")
            if kept is not None and kept.is_live(now):  # it may have ended meanwhile
                session = replace(
                    kept,
                    digest=digest(value),
                    auth_time=now,
                    expires_at=now + self._settings.session_ttl,
                )
                await uow.sessions.save(session)
            else:
                if before is not None:
                    await self._end(uow, before.session, proof.request_id)
                session = BrowserSession(
                    id=self._randomness.uuid(),
                    digest=digest(value),
                    user_id=user.id,
                    auth_time=now,
                    created_at=now,
                    expires_at=now + self._settings.session_ttl,
                )
                await uow.sessions.add(session)
            await uow.commit()
        return LoggedIn(session=session, user=user, cookie=value)

    async def hold(self, uow: UnitOfWork, here: LoggedIn) -> User | None:
        """The account as of now, if it is still logged in; whatever ends that waits for us."""
        user = await uow.users.get(here.user.id, lock="share")
        session = await uow.sessions.get(here.session.id, lock="share")
        live = session is not None and session.is_live(self._clock.now())
        return user if live and user.is_active else None

    # --- logging out -----------------------------------------------------------------------------

    async def logout_request(self, parameters: Parameters, *, cookie: str | None) -> LogoutRequest:
        """What a logout request asks for. Raises: UnsafeRequest, to be told on a page."""
        try:
            parameters.require_single()
        except OAuthError as error:
            raise UnsafeRequest(error.error, error.description) from None
        client_id, address = parameters.one("client_id"), parameters.one("post_logout_redirect_uri")
        hint = await self._hint(parameters.one("id_token_hint"))
        if hint is not None and client_id not in (None, hint.client_id):
            raise UnsafeRequest("invalid_request", "The client_id is not that of the id_token_hint")
        if address is not None:
            client = None if hint is None else await self._client(hint.client_id)
            if client is None or address not in client.metadata.post_logout_redirect_uris:
                raise UnsafeRequest(
                    "invalid_request", "The post_logout_redirect_uri is not registered"
                )
        here = await self.current(cookie)
        if here is None:
            session_id = None
            confirm = False
        else:
            session_id = here.session.id
            confirm = hint is None or hint.session_id != session_id
        return LogoutRequest(
            return_to=address,
            state=parameters.one("state"),
            confirm=confirm,
            session_id=session_id,
        )

    async def _hint(self, token: str | None) -> IdHint | None:
        try:
            return None if token is None else await self._tokens.read_hint(token)
        except InvalidToken:
            raise UnsafeRequest("invalid_request", "The id_token_hint is not one of ours") from None

    async def _client(self, client_id: str) -> Client | None:
        async with self._storage(reading="fresh") as uow:
            return await uow.clients.find(client_id)

    async def end(self, cookie: str | None, *, request_id: str | None = None) -> None:
        """Log out: the session, the grants it gave (save offline ones), and word to the apps."""
        here = await self.current(cookie)
        if here is not None:
            async with self._storage() as uow:
                await self._end(uow, here.session, request_id)
                await uow.commit()

    async def _end(self, uow: UnitOfWork, session: BrowserSession, request_id: str | None) -> None:
        now, user_id = self._clock.now(), session.user_id
        if not await uow.sessions.end(session.id, at=now):
            return
        await self._tell(uow, session.id, user_id)
        await uow.grants.revoke_of_session(session.id, at=now)
        await self._audit.record(uow, "user.logged_out", user_id, f"user:{user_id}", request_id)

    async def end_all(self, uow: UnitOfWork, user_id: UserId) -> None:
        """End all that somebody is logged in with, here and in apps, and send word to the apps.

        The sessions come first: a code that was under way is then either refused or revoked here.
        """
        now = self._clock.now()
        for session_id in await uow.sessions.end_of_user(user_id, at=now):
            await self._tell(uow, session_id, user_id)
        await uow.grants.revoke_of_user(user_id, at=now)

    async def _tell(self, uow: UnitOfWork, session_id: UUID, user_id: UserId) -> None:
        now = self._clock.now()
        for client_id in sorted(await uow.grants.clients_of_session(session_id)):
            client = await uow.clients.find(client_id)
            if client is not None and client.metadata.backchannel_logout_uri is not None:
                await uow.logout_notices.add(
                    LogoutNotice(
                        id=self._randomness.uuid(),
                        client_id=client_id,
                        uri=client.metadata.backchannel_logout_uri,
                        user_id=user_id,
                        session_id=session_id,
                        created_at=now,
                        due_at=now,
                    )
                )

    # --- telling the apps ------------------------------------------------------------------------

    async def deliver_notices(self, *, most: int = 20) -> int:
        """Tell apps about sessions that are over; how many notices were tried.

        A notice that fails comes back later; one that nobody takes for long is dropped.
        """
        now = self._clock.now()
        async with self._storage() as uow:
            due = await uow.logout_notices.lease_due(now=now, until=now + _LEASE, most=most)
            await uow.commit()
        # Together, or one app that does not answer would keep the others waiting past their leases.
        answers = await asyncio.gather(*(self._deliver(notice) for notice in due))
        for notice, taken in zip(due, answers, strict=True):
            async with self._storage() as uow:
                if taken or notice.attempts + 1 >= _ATTEMPTS_MOST:
                    await uow.logout_notices.remove(notice.id)
                else:
                    wait = _FIRST_WAIT * 2**notice.attempts
                    await uow.logout_notices.postpone(notice.id, until=self._clock.now() + wait)
                await uow.commit()
        return len(due)

    async def _deliver(self, notice: LogoutNotice) -> bool:
        now = self._clock.now()
        token = await self._tokens.sign_logout(
            LogoutClaims(
                subject=str(notice.user_id),
                client_id=notice.client_id,
                session_id=notice.session_id,
                token_id=self._randomness.uuid(),
                issued_at=now,
                expires_at=now + LOGOUT_TOKEN_TTL,
            )
        )
        return await self._sender.send(notice.uri, token)

    async def sweep(self, *, most: int = 500) -> bool:
        """Delete what is over, up to `most` of each kind; whether there may be more.

        Those are pushed requests, used ids, old codes, sessions and grants, and what the audit log
        says of logins.
        """
        now = self._clock.now()
        over = now - self._settings.refresh_family_ttl - self._settings.access_token_ttl
        logins = now - self._settings.login_retention
        async with self._storage() as uow:
            forgotten = (
                await uow.handshakes.forget(now=now, codes_before=over, most=most),
                await uow.sessions.forget(before=over, most=most),
                await uow.grants.forget(before=over, most=most),
                await uow.events.forget_logins(before=logins, most=most),
            )
            await uow.commit()
        return max(forgotten) >= most
