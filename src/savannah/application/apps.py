"""Use cases on apps: the programs that ask for tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from savannah.application.identity import OPERATOR, AuditLog, IdentitySettings
from savannah.application.ports import Clock, Randomness, Storage
from savannah.domain.access import IDENTITY_SCOPES, ROLE_SCOPES, Caller, Role, Scope
from savannah.domain.errors import AuthenticationRequired, InsufficientScope, NotFound
from savannah.domain.identity import (
    ALPHANUMERIC,
    SECRET_LENGTH,
    AppRequest,
    Client,
    ClientType,
    GrantType,
    UserId,
    digest,
)
from savannah.domain.oauth import is_plain, registered

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
        )
        allowed = _EVERY_SCOPE if asked.scopes is None else asked.scopes
        if asked.for_machines:
            if by is None or not by.may(Scope.APPS_MANAGE):
                raise InsufficientScope(Scope.APPS_MANAGE)
            if asked.scopes is None:
                staff = ROLE_SCOPES[Role.STAFF] & by.permissions
                allowed = frozenset({*IDENTITY_SCOPES, *(scope.value for scope in staff)})
            for scope in Scope:
                if scope in allowed:
                    by.require(scope)
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
            first_party=first_party and GrantType.AUTHORIZATION_CODE in asked.grant_types,
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

    async def configure_provider(
        self, client_id: str, changes: Mapping[str, object], *, by: Caller | None
    ) -> Client:
        """Change how the OpenID provider treats an app; fields as `domain.oauth.registered`.

        Args:
            by: None is the operator of this installation.

        Raises:
            InsufficientScope, NotFound; Invalid with every broken field.
        """
        if by is not None:
            by.require(Scope.APPS_MANAGE)
        async with self._storage() as uow:
            client = await uow.clients.find(client_id) if is_plain(client_id) else None
            if client is None:
                raise NotFound("client")
            after = registered(client, changes)
            if after != client:
                await uow.clients.save(after)
                actor, request_id = (by.principal, by.request_id) if by else (OPERATOR, None)
                names = sorted(changes)
                await self._audit.record(
                    uow, "client.configured", client.id, actor, request_id, fields=names
                )
            await uow.commit()
        return after

    def require_app_maker(self, by: Caller | None) -> None:
        """Whether this caller may make apps at all; a door asks before it looks at what was typed.

        Raises:
            AuthenticationRequired and InsufficientScope where apps are made by administrators.
        """
        if not self._settings.app_creation_open:
            if by is None:
                raise AuthenticationRequired
            by.require(Scope.APPS_MANAGE)
