"""Use cases on apps: the programs that ask for tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from savannah.application.identity import OPERATOR, AuditLog, IdentitySettings
from savannah.application.ports import (
    ClientFilter,
    Clock,
    Lock,
    Randomness,
    Storage,
    UnitOfWork,
)
from savannah.domain.access import IDENTITY_SCOPES, ROLE_SCOPES, Caller, Role, Scope
from savannah.domain.clients import AppRequest, Client, ClientType, GrantType, is_plain
from savannah.domain.errors import AuthenticationRequired, InsufficientScope, NotFound
from savannah.domain.identity import ALPHANUMERIC, SECRET_LENGTH, UserId, digest
from savannah.domain.oauth import registered
from savannah.domain.paging import Page, PageRequest

_CLIENT_ID_LENGTH: Final = 32
_EVERY_SCOPE: Final = frozenset({*IDENTITY_SCOPES, *(scope.value for scope in Scope)})


class Apps:
    """Programs that ask for tokens; every method checks what its caller may do."""

    def __init__(
        self,
        *,
        storage: Storage,
        audit: AuditLog,
        clock: Clock,
        randomness: Randomness,
        settings: IdentitySettings,
    ) -> None:
        self._storage = storage
        self._audit = audit
        self._clock = clock
        self._randomness = randomness
        self._settings = settings

    async def create_client(
        self,
        *,
        name: str,
        client_type: str = ClientType.CONFIDENTIAL,
        redirect_uris: Sequence[str] = (),
        scopes: Sequence[str] | None = None,
        grant_types: Sequence[str] | None = None,
        first_party: bool = True,
        by: Caller | None,
        request_id: str | None = None,
    ) -> tuple[Client, str | None]:
        """A new app and its secret, which nobody can read again; public apps have none.

        Without `scopes` an app gets every scope its users may have; one that gets tokens of its
        own gets what its maker and the staff role share.

        Args:
            first_party: whether people may give the app their password; apps without
                `authorization_code` never are.
            by: None is somebody unknown, not the operator.

        Raises:
            AuthenticationRequired and InsufficientScope where apps are made by administrators;
            InsufficientScope also for `client_credentials` without `apps:manage`, and for scopes
            of such an app which its maker lacks; Invalid with every broken field.
        """
        self.require_app_maker(by)
        asked = AppRequest.parse(
            name=name,
            client_type=client_type,
            redirect_uris=redirect_uris,
            scopes=scopes,
            grant_types=grant_types,
            first_party=first_party,
        )
        allowed = _EVERY_SCOPE if asked.scopes is None else asked.scopes
        if asked.for_machines:
            if by is None or not by.may(Scope.APPS_MANAGE):
                raise InsufficientScope(Scope.APPS_MANAGE)
            if asked.scopes is None:
                staff = ROLE_SCOPES[Role.STAFF] & by.permissions
                allowed = frozenset({*IDENTITY_SCOPES, *(scope.value for scope in staff)})
            _require_all(by, allowed)
        confidential = asked.client_type is ClientType.CONFIDENTIAL
        secret = self._randomness.symbols(ALPHANUMERIC, SECRET_LENGTH) if confidential else None
        client = Client(
            id=self._randomness.uuid(),
            client_id=self._randomness.symbols(ALPHANUMERIC, _CLIENT_ID_LENGTH),
            name=asked.name,
            client_type=asked.client_type,
            secret_digests=() if secret is None else (digest(secret),),
            redirect_uris=asked.redirect_uris,
            grant_types=asked.grant_types,
            scopes=allowed,
            first_party=asked.first_party and GrantType.AUTHORIZATION_CODE in asked.grant_types,
            owner_id=None if by is None or by.user_id is None else UserId(by.user_id),
            created_at=self._clock.now(),
        )
        async with self._storage() as uow:
            await uow.clients.add(client)
            actor = "anonymous"
            if by is not None:
                actor, request_id = by.principal, by.request_id
            grants = [grant.value for grant in client.grant_types]
            await self._audit.record(
                uow, "client.created", client.id, actor, request_id, grants=grants
            )
            await uow.commit()
        return client, secret

    async def list_clients(
        self, where: ClientFilter, page: PageRequest, *, by: Caller | None
    ) -> Page[Client]:
        """The apps; None is the operator. Raises: InsufficientScope."""
        _require_manager(by)
        async with self._storage(reading=True) as uow:
            return await uow.clients.page(where, page)

    async def get_client(self, client_id: str, *, by: Caller | None) -> Client:
        """One app; None is the operator. Raises: InsufficientScope, NotFound."""
        _require_manager(by)
        async with self._storage(reading=True) as uow:
            return await _found(uow, client_id)

    async def change_client(
        self, client_id: str, changes: Mapping[str, object], *, by: Caller | None
    ) -> Client:
        """Change what an app is called and may do, or whether it may do anything.

        That is `name`, `redirect_uris`, `grant_types`, `scopes`, `first_party` and `is_active`.
        One that is not active gets no tokens, and those it has stop at their next use. As when an
        app is made, nobody gives one that gets tokens of its own more than they have.

        Args:
            by: None is the operator of this installation.

        Raises:
            InsufficientScope, NotFound; Invalid with every broken, unknown or read-only field.
        """
        _require_manager(by)
        async with self._storage() as uow:
            client = await _found(uow, client_id, lock="update")
            after, changed = client.administered(changes)
            if not changed:
                return client
            if by is not None and GrantType.CLIENT_CREDENTIALS in after.grant_types:
                before = client.scopes if _is_machine(client) else frozenset[str]()
                _require_all(by, after.scopes - before)
            await uow.clients.save(after)
            if not after.is_active:  # and they stay ended when it is let in again
                await uow.grants.revoke_of_client(client_id, at=self._clock.now())
            fields = [name for name in changed if name != "is_active"]
            if fields:
                await self._record(uow, "client.updated", client, by, fields=fields)
            if "is_active" in changed:
                action = "client.enabled" if after.is_active else "client.disabled"
                await self._record(uow, action, client, by)
            await uow.commit()
        return after

    async def rotate_secret(
        self, client_id: str, *, end_logins: bool = False, by: Caller | None
    ) -> tuple[Client, str]:
        """Give an app a new secret, shown this once; the one before goes on until it is removed.

        One that is older ends. None is the operator.

        Args:
            end_logins: for a secret that somebody else may know: the former secrets end at once,
                and with them all that was got with them, offline logins too.

        Raises:
            InsufficientScope, also for a scope of a machine client which the caller lacks;
            NotFound; Invalid for a public app.
        """
        _require_manager(by)
        secret = self._randomness.symbols(ALPHANUMERIC, SECRET_LENGTH)
        async with self._storage() as uow:
            client = await _found(uow, client_id, lock="update")
            _require_reach(by, client)
            after = client.with_secret(secret)
            if end_logins:
                after = replace(after, secret_digests=after.secret_digests[:1])
                await uow.grants.revoke_of_client(client_id, at=self._clock.now())
            await uow.clients.save(after)
            await self._record(uow, "client.secret_added", client, by, secret=after.secret_ids[0])
            if end_logins:
                await self._record(uow, "client.logins_ended", client, by)
            await uow.commit()
        return after, secret

    async def remove_secret(self, client_id: str, secret_id: str, *, by: Caller | None) -> Client:
        """End one of an app's secrets at once. None is the operator.

        Raises:
            InsufficientScope; NotFound for the app and for the secret; LastSecret.
        """
        _require_manager(by)
        async with self._storage() as uow:
            client = await _found(uow, client_id, lock="update")
            after = client.without_secret(secret_id)
            await uow.clients.save(after)
            await self._record(uow, "client.secret_removed", client, by, secret=secret_id)
            await uow.commit()
        return after

    async def configure_provider(
        self, client_id: str, changes: Mapping[str, object], *, by: Caller | None
    ) -> Client:
        """Change how the OpenID provider treats an app; fields as `domain.oauth.registered`.

        Args:
            by: None is the operator of this installation.

        Raises:
            InsufficientScope, also for a scope of a machine client which the caller lacks;
            NotFound; Invalid with every broken field.
        """
        _require_manager(by)
        async with self._storage() as uow:
            client = await _found(uow, client_id, lock="update")
            _require_reach(by, client)
            after = registered(client, changes)
            if after != client:
                await uow.clients.save(after)
                await self._record(uow, "client.configured", client, by, fields=sorted(changes))
            await uow.commit()
        return after

    async def _record(
        self, uow: UnitOfWork, action: str, client: Client, by: Caller | None, **data: object
    ) -> None:
        actor, request_id = (by.principal, by.request_id) if by else (OPERATOR, None)
        await self._audit.record(uow, action, client.id, actor, request_id, **data)

    def require_app_maker(self, by: Caller | None) -> None:
        """Whether this caller may make apps at all; a door asks before it looks at what was typed.

        Raises:
            AuthenticationRequired and InsufficientScope where apps are made by administrators.
        """
        if not self._settings.app_creation_open:
            if by is None:
                raise AuthenticationRequired
            by.require(Scope.APPS_MANAGE)


def _require_manager(by: Caller | None) -> None:
    if by is not None:
        by.require(Scope.APPS_MANAGE)


def _require_all(by: Caller, scopes: Collection[str]) -> None:
    for scope in Scope:
        if scope in scopes:
            by.require(scope)


def _require_reach(by: Caller | None, client: Client) -> None:
    """Whoever sets a machine's secret or key can get its tokens. Raises: InsufficientScope."""
    if by is not None and _is_machine(client):
        _require_all(by, client.scopes)


def _is_machine(client: Client) -> bool:
    return GrantType.CLIENT_CREDENTIALS in client.grant_types


async def _found(uow: UnitOfWork, client_id: str, *, lock: Lock | None = None) -> Client:
    client = await uow.clients.find(client_id, lock=lock) if is_plain(client_id) else None
    if client is None:
        raise NotFound("app")
    return client
