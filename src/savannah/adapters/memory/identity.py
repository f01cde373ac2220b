"""Accounts, clients, grants and signing keys in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from uuid import UUID

from savannah.adapters.memory.tables import Tables, drop_oldest, page_of
from savannah.application.ports import (
    ClientFilter,
    Clients,
    Grants,
    Lock,
    Session,
    SigningKeys,
    UserFilter,
    Users,
)
from savannah.domain.access import OFFLINE
from savannah.domain.clients import Client
from savannah.domain.errors import NotFound, Problems
from savannah.domain.identity import (
    Grant,
    GrantId,
    RefreshToken,
    SigningKey,
    User,
    UserId,
    login_key,
)
from savannah.domain.paging import Page, PageRequest, Position
from savannah.domain.text import email_key


class MemoryUsers(Users):
    """Accounts as one transaction sees them."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def get(self, user_id: UserId, *, lock: Lock | None = None) -> User:
        del lock  # a unit of work that writes has all of the storage for itself
        user = self._tables.users.get(user_id)
        if user is None:
            raise NotFound("user")
        return user

    async def by_login(self, login: str) -> User | None:
        name, email = login_key(login), email_key(login)
        by_email: User | None = None
        for user in self._tables.users.values():
            if login_key(user.username) == name:
                return user
            if user.email is not None and email_key(user.email) == email:
                by_email = user
        return by_email

    async def add(self, user: User) -> None:
        problems = Problems()
        others = [other for other in self._tables.users.values() if other.id != user.id]
        if login_key(user.username) in {login_key(other.username) for other in others}:
            problems.add("username", "username_taken", "Somebody has this user name already")
        emails = {email_key(other.email) for other in others if other.email is not None}
        if user.email is not None and email_key(user.email) in emails:
            problems.add("email", "email_taken", "Somebody has this e-mail address already")
        problems.raise_if_any()
        self._tables.users.put(user.id, user)

    async def save(self, user: User) -> None:
        await self.add(user)

    async def list(self) -> Sequence[User]:
        return sorted(self._tables.users.values(), key=lambda user: login_key(user.username))

    async def page(self, where: UserFilter, page: PageRequest) -> Page[User]:
        logins = {login_key(each) for each in where.login} | {email_key(e) for e in where.login}
        found = (
            user
            for user in self._tables.users.values()
            if (not logins or not logins.isdisjoint(_logins_of(user)))
            and (not where.role or user.role in where.role)
            and where.is_active in (None, user.is_active)
        )
        by_name = page.ordering.name == "username"
        return page_of(
            found,
            page,
            position=lambda user: Position(
                (login_key(user.username) if by_name else user.date_joined,), user.id
            ),
            descending=page.ordering.descending,
        )

    async def active_admins(self) -> int:
        return sum(user.is_active_admin for user in self._tables.users.values())


def _logins_of(user: User) -> set[str]:
    names = {login_key(user.username)}
    return names if user.email is None else names | {email_key(user.email)}


class MemoryClients(Clients):
    """Clients as one transaction sees them."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def find(self, client_id: str, *, lock: Lock | None = None) -> Client | None:
        del lock  # as above
        return self._tables.clients.get(client_id)

    async def page(self, where: ClientFilter, page: PageRequest) -> Page[Client]:
        found = (
            client
            for client in self._tables.clients.values()
            if (not where.client_type or client.client_type in where.client_type)
            and where.is_active in (None, client.is_active)
            and where.first_party in (None, client.first_party)
        )
        by_name = page.ordering.name == "name"
        return page_of(
            found,
            page,
            position=lambda client: Position(
                (client.name if by_name else client.created_at,), client.id
            ),
            descending=page.ordering.descending,
        )

    async def add(self, client: Client) -> None:
        self._tables.clients.put(client.client_id, client)

    async def save(self, client: Client) -> None:
        self._tables.clients.put(client.client_id, client)


class MemoryGrants(Grants):
    """Grants and refresh tokens as one transaction sees them."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, grant: Grant) -> None:
        self._tables.grants.put(grant.id, grant)

    async def find(self, grant_id: GrantId) -> Grant | None:
        return self._tables.grants.get(grant_id)

    async def session(self, grant_id: GrantId) -> Session | None:
        grant = self._tables.grants.get(grant_id)
        if grant is None:
            return None
        return Session(
            grant=grant,
            user=None if grant.user_id is None else self._tables.users.get(grant.user_id),
            client=self._tables.clients.get(grant.client_id),
        )

    async def revoke(self, grant_id: GrantId, *, at: datetime) -> None:
        grant = self._tables.grants.get(grant_id)
        if grant is not None and grant.revoked_at is None:
            self._tables.grants.put(grant_id, replace(grant, revoked_at=at))

    async def revoke_of_user(self, user_id: UserId, *, at: datetime) -> None:
        await self._revoke(lambda grant: grant.user_id == user_id, at)

    async def add_refresh(self, token: RefreshToken) -> None:
        self._tables.refresh_tokens.put(token.digest, token)

    async def find_refresh(self, digest: str) -> RefreshToken | None:
        return self._tables.refresh_tokens.get(digest)

    async def consume_refresh(self, digest: str, successor: str, *, at: datetime) -> bool:
        token = self._tables.refresh_tokens.get(digest)
        if token is None or token.consumed_at is not None:
            return False
        used = replace(token, consumed_at=at, successor=successor)
        self._tables.refresh_tokens.put(digest, used)
        return True

    async def revoke_of_session(self, session_id: UUID, *, at: datetime) -> None:
        await self._revoke(lambda g: g.session_id == session_id and OFFLINE not in g.scopes, at)

    async def revoke_of_client(
        self, client_id: str, *, user_id: UserId | None = None, at: datetime
    ) -> None:
        await self._revoke(lambda g: g.client_id == client_id and user_id in (None, g.user_id), at)

    async def _revoke(self, which: Callable[[Grant], bool], at: datetime) -> None:
        for grant in [grant for grant in self._tables.grants.values() if which(grant)]:
            await self.revoke(grant.id, at=at)

    async def forget(self, *, before: datetime, most: int) -> int:
        tables = self._tables
        over = {k: g.created_at for k, g in tables.grants.items() if g.created_at <= before}
        tokens = (
            (over[token.grant_id], digest)
            for digest, token in tables.refresh_tokens.items()
            if token.grant_id in over
        )
        forgotten = drop_oldest(tables.refresh_tokens, tokens, most)
        kept = {token.grant_id for token in tables.refresh_tokens.values()}
        kept |= {code.grant_id for code in tables.codes.values()}
        bare = ((at, grant_id) for grant_id, at in over.items() if grant_id not in kept)
        return forgotten + drop_oldest(tables.grants, bare, most)

    async def clients_of_session(self, session_id: UUID) -> Collection[str]:
        grants = self._tables.grants.values()
        return {grant.client_id for grant in grants if grant.session_id == session_id}


class MemorySigningKeys(SigningKeys):
    """Signing keys as one transaction sees them."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def list(self) -> Sequence[SigningKey]:
        keys = self._tables.signing_keys.values()
        return sorted(keys, key=attrgetter("created_at", "kid"), reverse=True)

    async def add(self, key: SigningKey) -> None:
        self._tables.signing_keys.put(key.kid, key)

    async def save(self, key: SigningKey) -> None:
        self._tables.signing_keys.put(key.kid, key)

    async def forget(self, *, before: datetime) -> None:
        for key in await self.list():
            if any(at is not None and at <= before for at in (key.retired_at, key.revoked_at)):
                self._tables.signing_keys.drop(key.kid)
