"""`/api/auth/apps/`: the programs that ask for tokens, for those who look after them.

Under `/auth/`, because what is posted here is answered with a secret, and no answer with a secret
is kept for an Idempotency-Key.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final
from uuid import UUID

import msgspec
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from savannah.application.ports import ClientFilter
from savannah.domain.access import Scope, scope_text
from savannah.domain.clients import AuthMethod, Client, ClientType, GrantType
from savannah.domain.errors import Invalid
from savannah.entrypoints.http.auth import AppIn, ScopeName
from savannah.entrypoints.http.door import AnyResponse, TheCaller, TheDoor, json_response
from savannah.entrypoints.http.operations import LINE, Moment, Operation, Param, endpoint
from savannah.entrypoints.http.paging import PAGE_PARAMS, PageOut, ordering_param
from savannah.entrypoints.http.requests import AnyRequest, Query, read_object, read_query

TAG: Final = "Apps"

_FLAG: Final = {"type": "boolean"}
_FILTERS: Final = (
    Param(
        "client_type",
        {"type": "string", "enum": [*ClientType]},
        "Whether they keep a secret.",
        many=True,
    ),
    Param("is_active", _FLAG, "Whether they get tokens."),
    Param("first_party", _FLAG, "Whether people give them their password."),
)


class ManagedAppIn(AppIn, forbid_unknown_fields=True):
    """An app with what only an administrator decides."""

    first_party: bool = False


class ManagedAppOut(msgspec.Struct):
    """An app; its secrets have names, and are never shown again."""

    client_id: str
    name: str
    client_type: ClientType
    redirect_uris: list[str]
    grant_types: list[GrantType]
    scopes: list[str]
    first_party: bool
    is_active: bool
    secrets: list[str]
    owner: UUID | None
    created_at: Moment


class NewAppOut(ManagedAppOut):
    """An app with a new secret, which is shown this once; public apps have none."""

    client_secret: str | UnsetType = UNSET


class ManagedAppPage(PageOut):
    """A page of apps."""

    results: list[ManagedAppOut]


class AppChanges(msgspec.Struct, forbid_unknown_fields=True):
    """A merge patch of an app (RFC 7396): absent fields stay."""

    READ_ONLY: ClassVar[frozenset[str]] = frozenset(
        {"client_id", "client_type", "client_secret", "secrets", "owner", "created_at"}
    )

    name: Annotated[str, Meta(min_length=1, max_length=100, pattern=LINE)] | UnsetType = UNSET
    redirect_uris: list[str] | UnsetType = UNSET
    grant_types: Annotated[list[GrantType], Meta(min_length=1)] | UnsetType = UNSET
    scopes: list[ScopeName] | UnsetType = UNSET
    first_party: bool | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET


class SecretRotation(msgspec.Struct, forbid_unknown_fields=True):
    """How a secret is replaced."""

    end_logins: bool = False


class ProviderOut(msgspec.Struct):
    """How the OpenID provider treats an app; the names are those of RFC 7591 where it has one."""

    token_endpoint_auth_method: AuthMethod | None
    jwks: dict[str, Any] | None
    post_logout_redirect_uris: list[str]
    backchannel_logout_uri: str | None
    require_pkce: bool
    skip_consent: bool
    resource_server: bool


class ProviderChanges(msgspec.Struct, forbid_unknown_fields=True):
    """A merge patch of that (RFC 7396): absent fields stay, null is the usual."""

    token_endpoint_auth_method: AuthMethod | UnsetType | None = UNSET
    jwks: dict[str, Any] | UnsetType | None = UNSET
    post_logout_redirect_uris: list[str] | UnsetType = UNSET
    backchannel_logout_uri: str | UnsetType | None = UNSET
    require_pkce: bool | UnsetType = UNSET
    skip_consent: bool | UnsetType = UNSET
    resource_server: bool | UnsetType = UNSET


def _show_provider(client: Client) -> ProviderOut:
    metadata = client.metadata
    return ProviderOut(
        token_endpoint_auth_method=metadata.token_endpoint_auth_method,
        jwks=None if metadata.jwks is None else dict(metadata.jwks),
        post_logout_redirect_uris=list(metadata.post_logout_redirect_uris),
        backchannel_logout_uri=metadata.backchannel_logout_uri,
        require_pkce=metadata.require_pkce,
        skip_consent=metadata.skip_consent,
        resource_server=metadata.resource_server,
    )


def show(client: Client) -> ManagedAppOut:
    """An app as JSON has it."""
    return ManagedAppOut(
        client_id=client.client_id,
        name=client.name,
        client_type=client.client_type,
        redirect_uris=list(client.redirect_uris),
        grant_types=list(client.grant_types),
        scopes=scope_text(client.scopes).split(),
        first_party=client.first_party,
        is_active=client.is_active,
        secrets=list(client.secret_ids),
        owner=client.owner_id,
        created_at=client.created_at,
    )


def _with_secret(client: Client, secret: str | None) -> NewAppOut:
    return NewAppOut(
        **msgspec.structs.asdict(show(client)),
        client_secret=UNSET if secret is None else secret,
    )


@endpoint(
    "GET",
    "/auth/apps/",
    Operation(
        id="listApps",
        tag=TAG,
        summary="List apps",
        scope=Scope.APPS_MANAGE,
        query=(*PAGE_PARAMS, ordering_param("created_at", "name"), *_FILTERS),
        answer=ManagedAppPage,
        paged=True,
        errors=(400,),
    ),
)
async def list_apps(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    query = Query(request)
    where = ClientFilter(
        client_type=query.choices("client_type", ClientType),
        is_active=query.flag("is_active", default=None),
        first_party=query.flag("first_party", default=None),
    )
    wanted = door.cursors.page_request(request, query)
    page = await door.identity.apps.list_clients(where, wanted, by=caller)
    body, headers = door.cursors.answer(request, query, page, show)
    return json_response(body, headers=headers)


@endpoint(
    "POST",
    "/auth/apps/",
    Operation(
        id="createManagedApp",
        tag=TAG,
        summary="Make an app and get its secret, once",
        scope=Scope.APPS_MANAGE,
        body=ManagedAppIn,
        status=201,
        answer=NewAppOut,
        location=True,
        errors=(400, 413, 415, 422),
    ),
)
async def create_managed_app(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    body = {"first_party": False, **await read_object(request)}
    client, secret = await door.identity.apps.create_client(**body, by=caller)
    location = {"Location": f"/api/auth/apps/{client.client_id}/"}
    return json_response(_with_secret(client, secret), status=201, headers=location)


@endpoint(
    "GET",
    "/auth/apps/{client_id:str}/",
    Operation(
        id="getApp",
        tag=TAG,
        summary="One app",
        scope=Scope.APPS_MANAGE,
        answer=ManagedAppOut,
        path_schemas={"client_id": {"type": "string"}},
        errors=(400, 404),
    ),
)
async def get_app(
    request: AnyRequest, client_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    client = await door.identity.apps.get_client(client_id, by=caller)
    await read_query(request)
    return json_response(show(client))


@endpoint(
    "PATCH",
    "/auth/apps/{client_id:str}/",
    Operation(
        id="updateApp",
        tag=TAG,
        summary="Change what an app is called and may do, or switch it off",
        scope=Scope.APPS_MANAGE,
        body=AppChanges,
        merge=True,
        answer=ManagedAppOut,
        path_schemas={"client_id": {"type": "string"}},
        errors=(400, 404, 413, 415, 422),
        about="Tokens of an app that is not active stop at their next use.",
    ),
)
async def update_app(
    request: AnyRequest, client_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    apps = door.identity.apps
    changes = await read_object(request, exists=lambda: apps.get_client(client_id, by=caller))
    return json_response(show(await apps.change_client(client_id, changes, by=caller)))


@endpoint(
    "POST",
    "/auth/apps/{client_id:str}/secrets/",
    Operation(
        id="rotateAppSecret",
        tag=TAG,
        summary="Give an app a new secret, shown once",
        scope=Scope.APPS_MANAGE,
        body=SecretRotation,
        body_required=False,
        status=201,
        answer=NewAppOut,
        path_schemas={"client_id": {"type": "string"}},
        errors=(400, 404, 413, 415, 422),
        about=(
            "The secret before goes on until it is removed; one that is older ends. With "
            "`end_logins` all former secrets end at once, and every login of the app with them."
        ),
    ),
)
async def rotate_secret(
    request: AnyRequest, client_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    apps = door.identity.apps
    body = await read_object(request, exists=lambda: apps.get_client(client_id, by=caller))
    end_logins = body.get("end_logins", False)
    if not isinstance(end_logins, bool):
        raise Invalid.one("end_logins", "wrong_type", "This must be true or false")
    client, secret = await apps.rotate_secret(client_id, end_logins=end_logins, by=caller)
    return json_response(_with_secret(client, secret), status=201)


@endpoint(
    "DELETE",
    "/auth/apps/{client_id:str}/secrets/{secret_id:str}/",
    Operation(
        id="removeAppSecret",
        tag=TAG,
        summary="End one of an app's secrets at once",
        scope=Scope.APPS_MANAGE,
        status=204,
        path_schemas={"client_id": {"type": "string"}, "secret_id": {"type": "string"}},
        errors=(400, 404, 409),
    ),
)
async def remove_secret(
    request: AnyRequest,
    client_id: FromPath[str],
    secret_id: FromPath[str],
    door: TheDoor,
    caller: TheCaller,
) -> None:
    apps = door.identity.apps
    await read_query(request, exists=lambda: apps.get_client(client_id, by=caller))
    await apps.remove_secret(client_id, secret_id, by=caller)


@endpoint(
    "GET",
    "/auth/apps/{client_id:str}/provider/",
    Operation(
        id="getAppProvider",
        tag=TAG,
        summary="How the OpenID provider treats an app",
        scope=Scope.APPS_MANAGE,
        answer=ProviderOut,
        path_schemas={"client_id": {"type": "string"}},
        errors=(400, 404),
    ),
)
async def get_provider(
    request: AnyRequest, client_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    client = await door.identity.apps.get_client(client_id, by=caller)
    await read_query(request)
    return json_response(_show_provider(client))


@endpoint(
    "PATCH",
    "/auth/apps/{client_id:str}/provider/",
    Operation(
        id="updateAppProvider",
        tag=TAG,
        summary="Change how the OpenID provider treats an app",
        scope=Scope.APPS_MANAGE,
        body=ProviderChanges,
        merge=True,
        answer=ProviderOut,
        path_schemas={"client_id": {"type": "string"}},
        errors=(400, 404, 413, 415, 422),
        about="Logout addresses, keys for `private_key_jwt`, PKCE, consent, introspection.",
    ),
)
async def update_provider(
    request: AnyRequest, client_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    apps = door.identity.apps
    changes = await read_object(request, exists=lambda: apps.get_client(client_id, by=caller))
    return json_response(
        _show_provider(await apps.configure_provider(client_id, changes, by=caller))
    )


ROUTES = [
    get_provider,
    update_provider,
    list_apps,
    create_managed_app,
    get_app,
    update_app,
    rotate_secret,
    remove_secret,
]
