"""Accounts, clients, grants and signing keys in SQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, bindparam, delete, exists, insert, or_, select, update

from savannah.adapters.sql.engines import Lookup
from savannah.adapters.sql.paging import SortKey, read_page
from savannah.adapters.sql.retention import MOMENT, forget, oldest, only
from savannah.adapters.sql.tables import (
    authorization_codes,
    clients,
    grants,
    refresh_tokens,
    signing_keys,
    users,
)
from savannah.adapters.sql.transaction import FIELD_TAKEN_DETAILS, Params, Transaction
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
from savannah.domain.access import OFFLINE, Role
from savannah.domain.clients import AuthMethod, Client, ClientMetadata, ClientType, GrantType
from savannah.domain.errors import NotFound, Problems
from savannah.domain.identity import Grant, GrantId, RefreshToken, SigningKey, User, UserId
from savannah.domain.paging import Page, PageRequest
from savannah.domain.text import email_key

# --- users ---------------------------------------------------------------------------------------

_GET_USER: Final = select(users).where(users.c.id == bindparam("user_id"))
_GET_USER_LOCKED: Final[dict[Lock | None, Any]] = {
    None: _GET_USER,
    "share": _GET_USER.with_for_update(read=True),
    "update": _GET_USER.with_for_update(),
}
_NAMED: Final = select(users).where(
    or_(
        users.c.username_key == bindparam("name"),
        users.c.email_key == bindparam("email"),
    )
)
_ADD_USER: Final = insert(users)
# The columns to set are those of the values it is executed with, here and below.
_SAVE_USER: Final = update(users).where(users.c.id == bindparam("user_id"))
_USERS: Final = select(users).order_by(users.c.username_key)
_ACTIVE_ADMINS: Final = (
    select(users.c.id)
    .where(users.c.role == Role.ADMIN, users.c.is_active.is_(True))
    .order_by(users.c.id)
)


class SqlUsers(Users):
    """Accounts as one transaction sees them."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def get(self, user_id: UserId, *, lock: Lock | None = None) -> User:
        row = await self._transaction.first(_GET_USER_LOCKED[lock], {"user_id": user_id})
        if row is None:
            raise NotFound("user")
        return _user_of(row)

    async def by_login(self, login: str) -> User | None:
        name = login.casefold()
        rows = await self._transaction.all(_NAMED, {"name": name, "email": email_key(login)})
        found = sorted(rows, key=lambda row: row.username_key != name)
        return _user_of(found[0]) if found else None

    async def add(self, user: User) -> None:
        await self._require_free(user)
        self._transaction.later(_ADD_USER, {**_user_values(user), "id": user.id})

    async def save(self, user: User) -> None:
        await self._require_free(user)
        self._transaction.later(_SAVE_USER, {**_user_values(user), "user_id": user.id})

    async def _require_free(self, user: User) -> None:
        """Report both names at once; the unique constraints see to what happens meanwhile."""
        values = _user_values(user)
        keys = {"name": values["username_key"], "email": values["email_key"]}
        others = [row for row in await self._transaction.all(_NAMED, keys) if row.id != user.id]
        problems = Problems()
        if any(row.username_key == keys["name"] for row in others):
            problems.add("username", "username_taken", FIELD_TAKEN_DETAILS["username_taken"])
        if user.email is not None and any(row.email_key == keys["email"] for row in others):
            problems.add("email", "email_taken", FIELD_TAKEN_DETAILS["email_taken"])
        problems.raise_if_any()

    async def list(self) -> Sequence[User]:
        return [_user_of(row) for row in await self._transaction.all(_USERS)]

    async def page(self, where: UserFilter, page: PageRequest) -> Page[User]:
        found = select(users)
        if where.login:
            names = [each.casefold() for each in where.login]
            emails = [email_key(each) for each in where.login]
            found = found.where(or_(users.c.username_key.in_(names), users.c.email_key.in_(emails)))
        if where.role:
            found = found.where(users.c.role.in_(where.role))
        if where.is_active is not None:
            found = found.where(users.c.is_active.is_(where.is_active))
        by_name = page.ordering.name == "username"
        column = users.c.username_key if by_name else users.c.date_joined
        descending = page.ordering.descending
        keys = (SortKey(column, descending), SortKey(users.c.id, descending))
        rows = await read_page(
            self._transaction, found, keys, page, lambda row: (getattr(row, column.name),)
        )
        return rows.map(_user_of)

    async def active_admins(self) -> int:
        # Locked, so that two of them cannot demote each other at the same time.
        reading = self._transaction.reading
        admins = _ACTIVE_ADMINS if reading else _ACTIVE_ADMINS.with_for_update()
        return len(await self._transaction.all(admins))


def _user_values(user: User) -> Params:
    return {
        "username": user.username,
        "email": user.email,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "role": user.role,
        "password_hash": user.password_hash,
        "is_active": user.is_active,
        "date_joined": user.date_joined,
        "last_login": user.last_login,
        "username_key": user.username.casefold(),
        "email_key": None if user.email is None else email_key(user.email),
    }


def _user_of(row: Row[Any], prefix: str = "") -> User:
    columns = row._asdict()
    return User(
        id=columns[f"{prefix}id"],
        username=columns[f"{prefix}username"],
        email=columns[f"{prefix}email"],
        first_name=columns[f"{prefix}first_name"],
        last_name=columns[f"{prefix}last_name"],
        role=Role(columns[f"{prefix}role"]),
        password_hash=columns[f"{prefix}password_hash"],
        is_active=columns[f"{prefix}is_active"],
        date_joined=columns[f"{prefix}date_joined"],
        last_login=columns[f"{prefix}last_login"],
    )


# --- clients -------------------------------------------------------------------------------------

_FIND_CLIENT: Final = select(clients).where(clients.c.client_id == bindparam("of_client_id"))
_FIND_CLIENT_LOCKED: Final[dict[Lock | None, Any]] = {
    None: _FIND_CLIENT,
    "share": _FIND_CLIENT.with_for_update(read=True),
    "update": _FIND_CLIENT.with_for_update(),
}
_ADD_CLIENT: Final = insert(clients)
_SAVE_CLIENT: Final = update(clients).where(clients.c.id == bindparam("of_id"))


class SqlClients(Clients):
    """Clients as one transaction sees them."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def find(self, client_id: str, *, lock: Lock | None = None) -> Client | None:
        statement = _FIND_CLIENT_LOCKED[lock]
        row = await self._transaction.first(statement, {"of_client_id": client_id})
        return None if row is None else _client_of(row)

    async def page(self, where: ClientFilter, page: PageRequest) -> Page[Client]:
        found = select(clients)
        if where.client_type:
            found = found.where(clients.c.client_type.in_(where.client_type))
        if where.is_active is not None:
            found = found.where(clients.c.is_active.is_(where.is_active))
        if where.first_party is not None:
            found = found.where(clients.c.first_party.is_(where.first_party))
        column = clients.c.name if page.ordering.name == "name" else clients.c.created_at
        descending = page.ordering.descending
        keys = (SortKey(column, descending), SortKey(clients.c.id, descending))
        rows = await read_page(
            self._transaction, found, keys, page, lambda row: (getattr(row, column.name),)
        )
        return rows.map(_client_of)

    async def add(self, client: Client) -> None:
        self._transaction.later(_ADD_CLIENT, {**_client_values(client), "id": client.id})

    async def save(self, client: Client) -> None:
        self._transaction.later(_SAVE_CLIENT, {**_client_values(client), "of_id": client.id})


def _client_values(client: Client) -> Params:
    return {
        "client_id": client.client_id,
        "name": client.name,
        "client_type": client.client_type,
        "secret_digests": list(client.secret_digests),
        "redirect_uris": list(client.redirect_uris),
        "grant_types": list(client.grant_types),
        "scopes": sorted(client.scopes),
        "first_party": client.first_party,
        "is_active": client.is_active,
        "owner_id": client.owner_id,
        "created_at": client.created_at,
        "metadata": _metadata_values(client.metadata),
    }


def _metadata_values(metadata: ClientMetadata) -> dict[str, Any] | None:
    """Only what is not as usual, so that a new usual value needs no migration."""
    unusual = {
        field.name: getattr(metadata, field.name)
        for field in fields(metadata)
        if getattr(metadata, field.name) != field.default
    }
    return unusual or None


def _metadata_of(values: Mapping[str, Any] | None) -> ClientMetadata:
    kept = dict(values or {})
    method = kept.get("token_endpoint_auth_method")
    if method is not None:
        kept["token_endpoint_auth_method"] = AuthMethod(method)
    if "post_logout_redirect_uris" in kept:
        kept["post_logout_redirect_uris"] = tuple(kept["post_logout_redirect_uris"])
    return ClientMetadata(**kept)


def _client_of(row: Row[Any], prefix: str = "") -> Client:
    columns = row._asdict()
    return Client(
        id=columns[f"{prefix}id"],
        client_id=columns[f"{prefix}client_id"],
        name=columns[f"{prefix}name"],
        client_type=ClientType(columns[f"{prefix}client_type"]),
        secret_digests=tuple(columns[f"{prefix}secret_digests"]),
        redirect_uris=tuple(columns[f"{prefix}redirect_uris"]),
        grant_types=tuple(GrantType(name) for name in columns[f"{prefix}grant_types"]),
        scopes=frozenset(columns[f"{prefix}scopes"]),
        first_party=columns[f"{prefix}first_party"],
        is_active=columns[f"{prefix}is_active"],
        owner_id=columns[f"{prefix}owner_id"],
        created_at=columns[f"{prefix}created_at"],
        metadata=_metadata_of(columns[f"{prefix}metadata"]),
    )


# --- grants --------------------------------------------------------------------------------------

_ADD_GRANT: Final = insert(grants)
_FIND_GRANT: Final = select(grants).where(grants.c.id == bindparam("grant_id"))
_SESSION: Final = Lookup(
    select(
        grants,
        *(column.label(f"person_{column.name}") for column in users.c),
        *(column.label(f"app_{column.name}") for column in clients.c),
    ).select_from(
        grants.outerjoin(users, users.c.id == grants.c.user_id).outerjoin(
            clients, clients.c.client_id == grants.c.client_id
        )
    ),
    grants.c.id,
)
_LIVE: Final = grants.c.revoked_at.is_(None)
_REVOKE: Final = update(grants).where(grants.c.id == bindparam("grant_id"), _LIVE)
_REVOKE_OF_USER: Final = update(grants).where(grants.c.user_id == bindparam("of_user"), _LIVE)
_REVOKE_OF_SESSION: Final = update(grants).where(
    grants.c.session_id == bindparam("of_session"), grants.c.offline.is_not(True), _LIVE
)
_REVOKE_OF_CLIENT: Final = update(grants).where(grants.c.client_id == bindparam("of_client"), _LIVE)
_REVOKE_OF_CLIENT_AND_USER: Final = _REVOKE_OF_CLIENT.where(
    grants.c.user_id == bindparam("of_user")
)
_CLIENTS_OF_SESSION: Final = (
    select(grants.c.client_id).where(grants.c.session_id == bindparam("of_session")).distinct()
)
_FORGET: Final = (
    only(
        select(refresh_tokens.c.digest)
        .join(grants, grants.c.id == refresh_tokens.c.grant_id)
        .where(grants.c.created_at <= MOMENT)
        .order_by(grants.c.created_at, refresh_tokens.c.digest)
    ),
    oldest(
        grants.c.created_at,
        ~exists().where(refresh_tokens.c.grant_id == grants.c.id),
        ~exists().where(authorization_codes.c.grant_id == grants.c.id),
    ),
)
_ADD_REFRESH: Final = insert(refresh_tokens)
# One statement decides; a second one waits for the first to commit and then finds nothing.
_CONSUME_REFRESH: Final = (
    update(refresh_tokens)
    .where(
        refresh_tokens.c.digest == bindparam("of_digest"), refresh_tokens.c.consumed_at.is_(None)
    )
    .values(consumed_at=bindparam("at"), successor=bindparam("next"))
    .returning(refresh_tokens.c.digest)
)
_FIND_REFRESH: Final = select(refresh_tokens).where(
    refresh_tokens.c.digest == bindparam("of_digest")
)


class SqlGrants(Grants):
    """Grants and refresh tokens as one transaction sees them."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def add(self, grant: Grant) -> None:
        values = {
            "id": grant.id,
            "user_id": grant.user_id,
            "client_id": grant.client_id,
            "scopes": sorted(grant.scopes),
            "created_at": grant.created_at,
            "revoked_at": grant.revoked_at,
            "resources": list(grant.resources) or None,
            "session_id": grant.session_id,
            "offline": OFFLINE in grant.scopes,
            "nonce": grant.nonce,
            "auth_time": grant.auth_time,
        }
        self._transaction.later(_ADD_GRANT, values)

    async def find(self, grant_id: GrantId) -> Grant | None:
        row = await self._transaction.first(_FIND_GRANT, {"grant_id": grant_id})
        return None if row is None else _grant_of(row)

    async def session(self, grant_id: GrantId) -> Session | None:
        row = await self._transaction.find(_SESSION, grant_id)
        if row is None:
            return None
        return Session(
            grant=_grant_of(row),
            user=None if row.person_id is None else _user_of(row, "person_"),
            client=None if row.app_id is None else _client_of(row, "app_"),
        )

    async def revoke(self, grant_id: GrantId, *, at: datetime) -> None:
        self._transaction.later(_REVOKE, {"revoked_at": at, "grant_id": grant_id})

    async def revoke_of_user(self, user_id: UserId, *, at: datetime) -> None:
        self._transaction.later(_REVOKE_OF_USER, {"revoked_at": at, "of_user": user_id})

    async def add_refresh(self, token: RefreshToken) -> None:
        values = {
            "digest": token.digest,
            "grant_id": token.grant_id,
            "issued_at": token.issued_at,
            "expires_at": token.expires_at,
            "consumed_at": token.consumed_at,
            "successor": token.successor,
            "key_thumbprint": token.key_thumbprint,
        }
        self._transaction.later(_ADD_REFRESH, values)

    async def find_refresh(self, digest: str) -> RefreshToken | None:
        row = await self._transaction.first(_FIND_REFRESH, {"of_digest": digest})
        if row is None:
            return None
        return RefreshToken(
            digest=row.digest,
            grant_id=row.grant_id,
            issued_at=row.issued_at,
            expires_at=row.expires_at,
            consumed_at=row.consumed_at,
            successor=row.successor,
            key_thumbprint=row.key_thumbprint,
        )

    async def consume_refresh(self, digest: str, successor: str, *, at: datetime) -> bool:
        values = {"of_digest": digest, "at": at, "next": successor}
        return await self._transaction.first(_CONSUME_REFRESH, values) is not None

    async def revoke_of_session(self, session_id: UUID, *, at: datetime) -> None:
        self._transaction.later(_REVOKE_OF_SESSION, {"revoked_at": at, "of_session": session_id})

    async def revoke_of_client(
        self, client_id: str, *, user_id: UserId | None = None, at: datetime
    ) -> None:
        values = {"revoked_at": at, "of_client": client_id}
        if user_id is None:
            self._transaction.later(_REVOKE_OF_CLIENT, values)
        else:
            self._transaction.later(_REVOKE_OF_CLIENT_AND_USER, {**values, "of_user": user_id})

    async def forget(self, *, before: datetime, most: int) -> int:
        return await forget(self._transaction, _FORGET, moment=before, most=most)

    async def clients_of_session(self, session_id: UUID) -> Collection[str]:
        rows = await self._transaction.all(_CLIENTS_OF_SESSION, {"of_session": session_id})
        return {row.client_id for row in rows}


def _grant_of(row: Row[Any]) -> Grant:
    return Grant(
        id=row.id,
        user_id=row.user_id,
        client_id=row.client_id,
        scopes=frozenset(row.scopes),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        resources=tuple(row.resources or ()),
        session_id=row.session_id,
        nonce=row.nonce,
        auth_time=row.auth_time,
    )


# --- signing keys --------------------------------------------------------------------------------

_SIGNING_KEYS: Final = select(signing_keys).order_by(
    signing_keys.c.created_at.desc(), signing_keys.c.kid.desc()
)
_ADD_SIGNING_KEY: Final = insert(signing_keys)
_SAVE_SIGNING_KEY: Final = update(signing_keys).where(signing_keys.c.kid == bindparam("of_kid"))
_FORGET_SIGNING_KEYS: Final = delete(signing_keys).where(
    or_(signing_keys.c.retired_at <= MOMENT, signing_keys.c.revoked_at <= MOMENT)
)


class SqlSigningKeys(SigningKeys):
    """Signing keys as one transaction sees them."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def list(self) -> Sequence[SigningKey]:
        return [
            SigningKey(
                kid=row.kid,
                algorithm=row.algorithm,
                sealed=bytes(row.sealed),
                created_at=row.created_at,
                activated_at=row.activated_at,
                retired_at=row.retired_at,
                revoked_at=row.revoked_at,
            )
            for row in await self._transaction.all(_SIGNING_KEYS)
        ]

    async def add(self, key: SigningKey) -> None:
        self._transaction.later(_ADD_SIGNING_KEY, {**_key_values(key), "kid": key.kid})

    async def save(self, key: SigningKey) -> None:
        self._transaction.later(_SAVE_SIGNING_KEY, {**_key_values(key), "of_kid": key.kid})

    async def forget(self, *, before: datetime) -> None:
        self._transaction.later(_FORGET_SIGNING_KEYS, {"moment": before})


def _key_values(key: SigningKey) -> Params:
    return {
        "algorithm": key.algorithm,
        "sealed": key.sealed,
        "created_at": key.created_at,
        "activated_at": key.activated_at,
        "retired_at": key.retired_at,
        "revoked_at": key.revoked_at,
    }
