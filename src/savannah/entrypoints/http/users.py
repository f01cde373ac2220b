"""`/api/users/`: who there is, what they may do, and whether they may come in."""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec
from litestar.params import FromPath
from msgspec import UNSET, UnsetType

from savannah.application.ports import UserFilter
from savannah.domain.access import Role, Scope
from savannah.domain.identity import User, UserId, login_name
from savannah.entrypoints.http.auth import UserOut
from savannah.entrypoints.http.auth import show as show_user
from savannah.entrypoints.http.door import AnyResponse, TheCaller, TheDoor, json_response
from savannah.entrypoints.http.operations import Operation, Param, endpoint
from savannah.entrypoints.http.paging import PAGE_PARAMS, PageOut, ordering_param
from savannah.entrypoints.http.requests import AnyRequest, Query, path_id, read_object, read_query

TAG: Final = "Users"

_FILTERS: Final = (
    Param(
        "login",
        {"type": "string", "maxLength": 254},
        "A user name or an e-mail address, whatever its case.",
        many=True,
    ),
    Param("role", {"type": "string", "enum": [*Role]}, "What they are.", many=True),
    Param("is_active", {"type": "boolean"}, "Whether they may come in."),
)


class AccountOut(UserOut):
    """An account as an administrator sees it."""

    is_active: bool


class AccountPage(PageOut):
    """A page of accounts."""

    results: list[AccountOut]


class AccountChanges(msgspec.Struct, forbid_unknown_fields=True):
    """A merge patch of somebody's account (RFC 7396): what an administrator decides."""

    READ_ONLY: ClassVar[frozenset[str]] = frozenset(
        {"id", "username", "email", "first_name", "last_name", "date_joined", "last_login"}
    )

    role: Role | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET


def show(user: User) -> AccountOut:
    """An account as JSON has it."""
    return AccountOut(**msgspec.structs.asdict(show_user(user)), is_active=user.is_active)


@endpoint(
    "GET",
    "/users/",
    Operation(
        id="listUsers",
        tag=TAG,
        summary="List accounts",
        scope=Scope.USERS_MANAGE,
        query=(*PAGE_PARAMS, ordering_param("created_at", "username"), *_FILTERS),
        answer=AccountPage,
        paged=True,
        errors=(400,),
        about="`created_at` in `ordering` is when they joined.",
    ),
)
async def list_users(request: AnyRequest, door: TheDoor, caller: TheCaller) -> AnyResponse:
    query = Query(request)
    where = UserFilter(
        login=[login_name(each) for each in query.many("login")],
        role=query.choices("role", Role),
        is_active=query.flag("is_active", default=None),
    )
    wanted = door.cursors.page_request(request, query)
    page = await door.identity.accounts.list_users(where, wanted, by=caller)
    body, headers = door.cursors.answer(request, query, page, show)
    return json_response(body, headers=headers)


@endpoint(
    "GET",
    "/users/{user_id:str}/",
    Operation(
        id="getUser",
        tag=TAG,
        summary="One account",
        scope=Scope.USERS_MANAGE,
        answer=AccountOut,
        errors=(400, 404),
    ),
)
async def get_user(
    request: AnyRequest, user_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    user = await door.identity.accounts.get_user(_id_of(user_id), by=caller)
    await read_query(request)
    return json_response(show(user))


@endpoint(
    "PATCH",
    "/users/{user_id:str}/",
    Operation(
        id="updateUser",
        tag=TAG,
        summary="Give somebody another role, or lock them out or in",
        scope=Scope.USERS_MANAGE,
        body=AccountChanges,
        merge=True,
        answer=AccountOut,
        errors=(400, 404, 409, 413, 415, 422),
        about="Both act at their next request. The last active administrator stays one.",
    ),
)
async def update_user(
    request: AnyRequest, user_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    id_, accounts = _id_of(user_id), door.identity.accounts
    changes = await read_object(request, exists=lambda: accounts.get_user(id_, by=caller))
    return json_response(show(await accounts.change_user(id_, changes, by=caller)))


def _id_of(raw: str) -> UserId:
    return UserId(path_id(raw, "user"))


ROUTES = [list_users, get_user, update_user]
