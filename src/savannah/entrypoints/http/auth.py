"""`/api/auth/`: accounts, apps and logins for people's own programs; no rule lives here.

Nothing of these bodies is ever logged. The OAuth 2 protocol endpoints are not here.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final
from uuid import UUID

import msgspec
from litestar.params import FromPath
from msgspec import UNSET, Meta, UnsetType

from savannah.application.trace import request_id_var
from savannah.domain.access import (
    IDENTITY_SCOPES,
    SCOPE_ALIASES,
    Role,
    Scope,
    scope_text,
)
from savannah.domain.clients import Client, ClientType, GrantType
from savannah.domain.identity import User
from savannah.entrypoints.http.door import (
    AnyResponse,
    TheCaller,
    TheDoor,
    TheVisitor,
    access_token,
    address_of,
    json_response,
)
from savannah.entrypoints.http.operations import (
    LINE,
    SHORT_LINE,
    EmailText,
    Moment,
    Operation,
    endpoint,
)
from savannah.entrypoints.http.requests import (
    AnyRequest,
    read_object,
    read_query,
    require_texts,
)

TAG: Final = "Auth"

Password = Annotated[str, Meta(min_length=8, max_length=128, examples=["securepassword123"])]
PersonName = Annotated[str, Meta(max_length=150, pattern=SHORT_LINE)]
ScopeName = Annotated[
    str, Meta(extra_json_schema={"enum": [*IDENTITY_SCOPES, *Scope, *SCOPE_ALIASES]})
]


class RegisterIn(msgspec.Struct, forbid_unknown_fields=True):
    """A new account; what it may do is not the applicant's to say."""

    READ_ONLY: ClassVar[frozenset[str]] = frozenset(
        {"id", "role", "is_active", "date_joined", "last_login"}
    )

    username: Annotated[
        str,
        Meta(
            min_length=3,
            max_length=150,
            pattern=r"^\s*[A-Za-z0-9@.+_-]{3,150}\s*$",
            examples=["johndoe"],
        ),
    ]
    password: Password
    email: EmailText | None = None
    confirm_password: str | None = None
    first_name: PersonName = ""
    last_name: PersonName = ""


class UserOut(msgspec.Struct):
    """An account as its owner sees it."""

    id: UUID
    username: str
    email: str | None
    first_name: str
    last_name: str
    role: Role
    date_joined: Moment
    last_login: Moment | None


class Registered(msgspec.Struct):
    message: str
    user: UserOut


class AppIn(msgspec.Struct, forbid_unknown_fields=True):
    """A program that wants to log people in, or to get tokens of its own."""

    READ_ONLY: ClassVar[frozenset[str]] = frozenset({"client_id", "client_secret", "created_at"})

    name: Annotated[
        str, Meta(min_length=1, max_length=100, pattern=LINE, examples=["My Mobile App"])
    ]
    client_type: ClientType = ClientType.CONFIDENTIAL
    redirect_uris: list[str] = []
    scopes: list[ScopeName] | None = None
    grant_types: Annotated[list[GrantType], Meta(min_length=1)] | None = None


class AppOut(msgspec.Struct):
    """A new app; its secret is shown this once, and public apps have none."""

    client_id: str
    name: str
    client_type: ClientType
    grant_types: list[GrantType]
    scopes: list[str]
    created_at: Moment
    client_secret: str | UnsetType = UNSET


# RFC 6749 section 3.3: words parted by blanks; unknown ones are ignored, one must be known.
ScopeText = Annotated[
    str,
    Meta(
        pattern=rf"^ *$|(?:^| )(?:{'|'.join((*IDENTITY_SCOPES, *SCOPE_ALIASES, *Scope))})(?: |$)",
        examples=["openid read"],
    ),
]


class LoginIn(msgspec.Struct, forbid_unknown_fields=True):
    """Who logs in, and through which app. `username` may be the e-mail address."""

    username: Annotated[str, Meta(examples=["johndoe"])]
    password: Annotated[str, Meta(examples=["securepassword123"])]
    client_id: str
    client_secret: str | None = None
    scope: ScopeText | None = None


class LoginOut(msgspec.Struct):
    """The tokens; `refresh_token` for apps with that grant type, `id_token` with `openid`."""

    access_token: str
    token_type: str
    expires_in: int
    scope: str
    user: UserOut
    refresh_token: str | UnsetType = UNSET
    id_token: str | UnsetType = UNSET


class LogoutIn(msgspec.Struct, forbid_unknown_fields=True):
    """A refresh token to end as well; the one of this login ends anyway."""

    refresh_token: str | None = None


class ProfileChanges(msgspec.Struct, forbid_unknown_fields=True):
    """A merge patch of one's own account (RFC 7396): absent fields stay."""

    first_name: PersonName | UnsetType = UNSET
    last_name: PersonName | UnsetType = UNSET
    email: EmailText | UnsetType | None = UNSET


class PasswordChange(msgspec.Struct, forbid_unknown_fields=True):
    old_password: str
    new_password: Password
    confirm_password: str


class TokenInfoOut(msgspec.Struct):
    """What the token of this request allows now; a machine client has no user name and role."""

    active: bool
    token_type: str
    sub: str
    username: str | None
    role: Role | None
    client_id: str
    client_name: str
    scope: str
    iat: int
    exp: int
    expires_in: int


class ConsentOut(msgspec.Struct):
    """What one has allowed an app, until it is withdrawn."""

    client_id: str
    client_name: str
    scopes: list[str]
    given_at: Moment


class ConsentsOut(msgspec.Struct):
    results: list[ConsentOut]


def show(user: User) -> UserOut:
    """An account as JSON has it."""
    return UserOut(
        id=user.id,
        username=user.username,
        email=user.email,
        first_name=user.first_name,
        last_name=user.last_name,
        role=user.role,
        date_joined=user.date_joined,
        last_login=user.last_login,
    )


def _show_app(client: Client, secret: str | None) -> AppOut:
    return AppOut(
        client_id=client.client_id,
        name=client.name,
        client_type=client.client_type,
        grant_types=list(client.grant_types),
        scopes=scope_text(client.scopes).split(),
        created_at=client.created_at,
        client_secret=UNSET if secret is None else secret,
    )


@endpoint(
    "POST",
    "/auth/register/",
    Operation(
        id="register",
        tag=TAG,
        summary="Open an account, where registration is open",
        auth="none",
        anonymous_limit=True,
        body=RegisterIn,
        status=201,
        answer=Registered,
        errors=(400, 403, 413, 415, 422, 429),
    ),
)
async def register(request: AnyRequest, door: TheDoor, visitor: TheVisitor) -> AnyResponse:
    del visitor  # asking for it counts the request
    door.identity.accounts.require_open_registration()
    body = await read_object(request)
    user = await door.identity.accounts.register(**body, request_id=request_id_var.get())
    registered = Registered(message="User registered successfully", user=show(user))
    return json_response(registered, status=201)


@endpoint(
    "POST",
    "/auth/create-app/",
    Operation(
        id="createApp",
        tag=TAG,
        summary="Make an app and get its secret, once",
        auth="optional",
        anonymous_limit=True,
        body=AppIn,
        status=201,
        answer=AppOut,
        errors=(400, 401, 403, 413, 415, 422, 429),
    ),
)
async def create_app(request: AnyRequest, door: TheDoor, visitor: TheVisitor) -> AnyResponse:
    door.identity.apps.require_app_maker(visitor)
    body = await read_object(request)
    client, secret = await door.identity.apps.create_client(
        **body, by=visitor, request_id=request_id_var.get()
    )
    return json_response(_show_app(client, secret), status=201)


@endpoint(
    "POST",
    "/auth/login/",
    Operation(
        id="login",
        tag=TAG,
        summary="Exchange a password for tokens",
        auth="none",
        anonymous_limit=True,
        body=LoginIn,
        answer=LoginOut,
        errors=(400, 401, 403, 413, 415, 422, 429),
    ),
)
async def login(request: AnyRequest, door: TheDoor, visitor: TheVisitor) -> AnyResponse:
    del visitor  # asking for it counts the request
    body = await read_object(request)
    require_texts(body, *LoginIn.__struct_fields__)
    opened = await door.identity.logins.login(
        **body, address=address_of(request), request_id=request_id_var.get()
    )
    return json_response(
        LoginOut(
            access_token=opened.access_token,
            token_type="Bearer",  # noqa: S106 - the type's name
            expires_in=opened.expires_in,
            scope=opened.scope,
            user=show(opened.user),
            refresh_token=UNSET if opened.refresh_token is None else opened.refresh_token,
            id_token=UNSET if opened.id_token is None else opened.id_token,
        )
    )


@endpoint(
    "POST",
    "/auth/logout/",
    Operation(
        id="logout",
        tag=TAG,
        summary="End this login",
        body=LogoutIn,
        body_required=False,
        status=204,
        errors=(400, 413, 415, 422),
    ),
)
async def logout(request: AnyRequest, door: TheDoor, caller: TheCaller) -> None:
    body = await read_object(request)
    require_texts(body, "refresh_token")
    await door.identity.logins.logout(**body, by=caller)


@endpoint(
    "GET",
    "/auth/profile/",
    Operation(id="getProfile", tag=TAG, summary="One's own account", answer=UserOut),
)
async def get_profile(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    user = await door.identity.accounts.profile(by=caller)
    await read_query(request)
    return json_response(show(user))


@endpoint(
    "PATCH",
    "/auth/profile/",
    Operation(
        id="updateProfile",
        tag=TAG,
        summary="Change one's own names and e-mail address",
        body=ProfileChanges,
        merge=True,
        answer=UserOut,
        errors=(400, 413, 415, 422),
    ),
)
async def update_profile(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    changes = await read_object(request)
    return json_response(show(await door.identity.accounts.update_profile(changes, by=caller)))


@endpoint(
    "POST",
    "/auth/change-password/",
    Operation(
        id="changePassword",
        tag=TAG,
        summary="Replace one's password and end every login",
        body=PasswordChange,
        status=204,
        errors=(400, 413, 415, 422),
    ),
)
async def change_password(request: AnyRequest, door: TheDoor, caller: TheCaller) -> None:
    body = await read_object(request)
    require_texts(body, *PasswordChange.__struct_fields__)
    await door.identity.accounts.change_password(**body, by=caller, address=address_of(request))


@endpoint(
    "GET",
    "/auth/token-info/",
    Operation(
        id="getTokenInfo",
        tag=TAG,
        summary="What the token of this request allows",
        answer=TokenInfoOut,
    ),
)
async def get_token_info(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    del caller  # asking for it checks the token
    await read_query(request)
    shown = access_token(request)
    assert shown is not None
    info = await door.identity.logins.token_info(shown.token)
    return json_response(
        TokenInfoOut(
            active=info.active,
            token_type=info.token_type,
            sub=info.sub,
            username=info.username,
            role=info.role,
            client_id=info.client_id,
            client_name=info.client_name,
            scope=info.scope,
            iat=info.iat,
            exp=info.exp,
            expires_in=info.expires_in,
        )
    )


@endpoint(
    "GET",
    "/auth/consents/",
    Operation(
        id="listConsents",
        tag=TAG,
        summary="What one has allowed apps",
        answer=ConsentsOut,
        about="Apps that need not ask are not among them.",
    ),
)
async def list_consents(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    given = await door.identity.accounts.consents(by=caller)
    await read_query(request)
    return json_response(
        ConsentsOut(
            results=[
                ConsentOut(
                    client_id=each.consent.client_id,
                    client_name=each.client_name,
                    scopes=scope_text(each.consent.scopes).split(),
                    given_at=each.consent.given_at,
                )
                for each in given
            ]
        )
    )


@endpoint(
    "DELETE",
    "/auth/consents/{client_id:str}/",
    Operation(
        id="withdrawConsent",
        tag=TAG,
        summary="Allow an app nothing any more",
        status=204,
        path_schemas={"client_id": {"type": "string"}},
        errors=(400, 404),
        about="Every login one gave the app ends at once; it has to ask anew.",
    ),
)
async def withdraw_consent(
    request: AnyRequest, client_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> None:
    await read_query(request)
    await door.identity.accounts.withdraw_consent(client_id, by=caller)


ROUTES = [
    register,
    create_app,
    login,
    logout,
    get_profile,
    update_profile,
    change_password,
    get_token_info,
    list_consents,
    withdraw_consent,
]
