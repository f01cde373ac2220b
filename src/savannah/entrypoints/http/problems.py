"""Refusals as RFC 9457 problem documents: one table, by class of error."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException

from savannah.application.trace import request_id_var
from savannah.domain.errors import (
    AuthenticationRequired,
    BadQuery,
    Conflict,
    Denied,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InsufficientScope,
    Invalid,
    InvalidClient,
    InvalidCredentials,
    NotFound,
    RateLimited,
    SavannahError,
    StaleVersion,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from savannah.entrypoints.http.operations import canonical_path

log = logging.getLogger("savannah.http")

# What a URI fragment may hold as it is (RFC 3986 section 3.5), besides letters and digits.
_IN_FRAGMENT: Final = "-._~!$&'()*+,;=:@/?"
PROBLEM_STATE: Final = "problem"  # where the gate finds the code
# In the application's state: the address of the metadata of our API as a resource.
RESOURCE_METADATA: Final = "resource_metadata"
MEDIA_TYPE: Final = "application/problem+json"

STATUS_OF: Final[tuple[tuple[type[SavannahError], int], ...]] = (
    (Invalid, 422),
    (IdempotencyKeyReused, 422),
    (BadQuery, 400),
    (NotFound, 404),
    (Unauthenticated, 401),
    (Denied, 403),
    (StaleVersion, 412),
    (Conflict, 409),
    (Throttled, 429),
    (Unavailable, 503),
)

# Every problem code, with the title of its document and what a caller can do about it.
TITLES: Final[Mapping[str, tuple[str, str]]] = {
    "malformed_json": ("The body is not JSON", "Send one well-formed JSON object in UTF-8."),
    "unknown_parameter": ("Unknown query parameter", "Check the spelling of the parameter."),
    "invalid_parameter": ("A query parameter is not valid", "`errors` names it and its rule."),
    "missing_parameter": ("A query parameter is missing", "`errors` names it."),
    "invalid_uuid": ("An identifier is not a UUID", "Use an id as this service returned it."),
    "invalid_cursor": (
        "The cursor is not valid here",
        "Follow `next` and `previous` as they are; begin again without a cursor.",
    ),
    "query_too_short": ("The search text is too short", "Search for two characters or more."),
    "range_too_large": ("The period is too long", "Ask for fewer days or a coarser interval."),
    "invalid_idempotency_key": (
        "The Idempotency-Key is not valid",
        "Use 1 to 255 printable ASCII characters.",
    ),
    "invalid_host": ("The host is not served here", "Use a host name this service is known by."),
    "authentication_required": (
        "Authentication is required",
        "Log in and send the access token as `Authorization: Bearer …`.",
    ),
    "invalid_token": ("The access token is not valid", "Log in again."),
    "token_expired": ("The access token has expired", "Log in again."),
    "token_revoked": ("The access token was revoked", "Log in again."),
    "invalid_credentials": ("Wrong user or password", "Check both; the answer is the same."),
    "invalid_client": ("Unknown client", "Check client_id and client_secret."),
    "insufficient_scope": (
        "The permission is missing",
        "`required_scope` names it; ask an administrator.",
    ),
    "role_forbidden": ("The role does not allow this", "Ask an administrator."),
    "account_disabled": ("The account is disabled", "Ask an administrator."),
    "registration_closed": ("Registration is closed", "Ask an administrator for an account."),
    "not_found": ("Not found", "It does not exist, or no longer."),
    "method_not_allowed": ("The method is not allowed here", "`Allow` lists those that are."),
    "body_too_large": ("The body is too large", "At most 64 KiB are accepted."),
    "unsupported_media_type": (
        "The media type is not supported",
        "Send `Content-Type: application/json`.",
    ),
    "invalid_transition": (
        "Status change not allowed",
        "`allowed_transitions` lists where the order can go from here.",
    ),
    "order_not_editable": (
        "The order cannot be changed this way now",
        "`editable_fields` lists what can.",
    ),
    "order_not_deletable": ("The order cannot be deleted now", "Cancel it first."),
    "customer_has_open_orders": (
        "The customer has open orders",
        "Deliver or cancel them first; `open_orders` counts them.",
    ),
    "customer_archived": ("The customer is archived", "Restore the customer first."),
    "customer_erased": ("The customer was erased", "This cannot be undone."),
    "email_taken": ("The e-mail address is taken", "Another customer has it."),
    "code_taken": ("The code is taken", "A code is never used twice."),
    "order_number_taken": ("No free order number was found", "Send the request again."),
    "customer_opted_out": (
        "The customer wants no texts",
        "Reach them another way. After a block, `sms_opt_out` true and then false tries again.",
    ),
    "no_sms_for_status": (
        "There is no text for this event yet",
        "`available_events` lists what the order has been through.",
    ),
    "notification_not_dead": ("The message is not dead", "Only dead messages are replayed."),
    "idempotency_in_progress": (
        "The first request is still running",
        "Wait a second and send the request again.",
    ),
    "last_admin": ("The last administrator stays", "Make somebody else an administrator first."),
    "last_secret": ("The last secret stays", "Give the app a new secret first."),
    "version_conflict": (
        "The resource has changed",
        "Read it again; `current_version` is the revision to name in `If-Match`.",
    ),
    "precondition_required": ("If-Match is required", "Send the ETag you have read."),
    "validation_error": ("Some fields are not valid", "`errors` lists each with its rule."),
    "idempotency_key_reused": (
        "The Idempotency-Key was used before",
        "Use a new key for a different request.",
    ),
    "rate_limited": ("Too many requests", "Wait as long as `Retry-After` says."),
    "too_many_attempts": ("Too many failed attempts", "Wait as long as `Retry-After` says."),
    "resend_throttled": ("Sent again too often", "Wait as long as `Retry-After` says."),
    "sms_budget_exhausted": (
        "The budget for texts is used up",
        "Wait for the next period or raise the budget.",
    ),
    "bad_request": ("The request is not valid", "`detail` says what is wrong."),
    "internal_error": (
        "Something went wrong here",
        "Tell the operator the request id; nothing else is known to be wrong with the request.",
    ),
    "service_unavailable": ("Temporarily unavailable", "Wait and send the request again."),
}


class DoorError(Exception):
    """A refusal of the door itself: the request is broken before a rule of the domain applies."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        header: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.header = header
        self.headers = dict(headers or {})


def document(
    *, status: int, code: str, detail: str, instance: str, **more: object
) -> dict[str, Any]:
    """A problem as a JSON object, with the members every problem has first."""
    return {
        "type": f"/problems/{code}",
        "title": TITLES[code][0],
        "status": status,
        "code": code,
        "detail": detail,
        "instance": instance,
        "request_id": request_id_var.get(),
        **more,
    }


def pointer(path: str) -> str:
    """A field's path as a JSON Pointer fragment (RFC 6901 section 6); "" is the whole body."""
    return f"#/{quote(path, safe=_IN_FRAGMENT, errors='replace')}" if path else "#"


def _members(error: SavannahError) -> dict[str, object]:
    more: dict[str, object] = {name: getattr(error, name) for name in error.extras}
    if isinstance(error, Invalid):
        more["errors"] = [
            {
                "pointer": pointer(problem.field),
                "field": problem.field,
                "code": problem.code,
                "detail": problem.detail,
            }
            for problem in error.problems
        ]
    elif isinstance(error, BadQuery):
        more["errors"] = [
            {"parameter": error.parameter, "code": error.code, "detail": error.detail}
        ]
    return more


def challenge(request: Request[Any, Any, Any], **said: str) -> dict[str, str]:
    """How to come back with a token (RFC 6750 section 3), and where one is had (RFC 9728)."""
    parts = ['realm="savannah"']
    where = request.app.state.get(RESOURCE_METADATA)
    if where is not None:
        parts.append(f'resource_metadata="{where}"')
    parts += [f'{name}="{value}"' for name, value in said.items()]
    return {"WWW-Authenticate": f"Bearer {', '.join(parts)}"}


def _challenge_of(request: Request[Any, Any, Any], error: SavannahError) -> dict[str, str]:
    if isinstance(error, AuthenticationRequired | InvalidCredentials | InvalidClient):
        # RFC 6750 section 3.1: no error code where no token came.
        return challenge(request)
    if isinstance(error, Unauthenticated):
        return challenge(request, error="invalid_token")
    if isinstance(error, InsufficientScope):
        return challenge(request, error="insufficient_scope", scope=error.required_scope)
    return {}


def headers_of(error: SavannahError) -> dict[str, str]:
    """What a refusal says about waiting."""
    if isinstance(error, RateLimited):
        return {
            "Retry-After": _seconds(error.retry_after.total_seconds()),
            "RateLimit-Limit": str(error.limit),
            "RateLimit-Remaining": str(error.remaining),
            "RateLimit-Reset": _seconds(error.reset_after.total_seconds()),
        }
    if isinstance(error, Throttled | Unavailable | IdempotencyInProgress):
        return {"Retry-After": _seconds(error.retry_after.total_seconds())}
    return {}


def _seconds(value: float) -> str:
    return str(max(1, int(-(-value // 1))))


def status_of(error: SavannahError) -> int:
    """The HTTP status of a refusal."""
    return next(status for kind, status in STATUS_OF if isinstance(error, kind))


def _respond(
    request: Request[Any, Any, Any],
    document_: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
) -> Response[bytes]:
    request.scope["state"][PROBLEM_STATE] = document_["code"]
    return Response(
        msgspec.json.encode(document_),
        status_code=document_["status"],
        media_type=MEDIA_TYPE,
        headers=dict(headers or {}),
    )


def refuse(request: Request[Any, Any, Any], error: SavannahError) -> Response[bytes]:
    """The answer to a refusal of the core."""
    status = status_of(error)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        cause = type(error.__cause__ or error).__name__
        log.error("a part we depend on is unavailable", extra={"cause": cause})
    return _respond(
        request,
        document(
            status=status,
            code=error.code,
            detail=error.detail,
            instance=canonical_path(request.scope["path"]),
            **_members(error),
        ),
        {**_challenge_of(request, error), **headers_of(error)},
    )


def refuse_shape(request: Request[Any, Any, Any], error: DoorError) -> Response[bytes]:
    """The answer to a request that is broken as such."""
    more: dict[str, object] = {}
    if error.header is not None:
        more["errors"] = [{"header": error.header, "code": error.code, "detail": error.detail}]
    return _respond(
        request,
        document(
            status=error.status,
            code=error.code,
            detail=error.detail,
            instance=canonical_path(request.scope["path"]),
            **more,
        ),
        error.headers,
    )


def with_head(methods: Collection[str]) -> str:
    """The value of `Allow`: what answers GET answers HEAD."""
    return ", ".join(sorted({*methods, "HEAD"} if "GET" in methods else methods))


_FRAMEWORK_CODES: Final = {
    401: "authentication_required",
    403: "role_forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
    503: "service_unavailable",
}


def refuse_framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """The answer where the framework refused: no such path, wrong method, too large a body."""
    status = error.status_code
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return crash(request, error)
    code = _FRAMEWORK_CODES.get(status, "bad_request")
    title, remedy = TITLES[code]
    headers: dict[str, str] = {}
    if isinstance(error, MethodNotAllowedException):
        allowed = (error.headers or {}).get("allow", "")
        headers["Allow"] = with_head({method.strip() for method in allowed.split(",")})
    return _respond(
        request,
        document(
            status=status,
            code=code,
            detail=remedy if code == "body_too_large" else title,  # the limit stands in it
            instance=canonical_path(request.scope["path"]),
        ),
        headers,
    )


def crash(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The answer to what nobody foresaw: the request id, and nothing else."""
    log.error("a request failed", exc_info=error)
    return _respond(
        request,
        document(
            status=500,
            code="internal_error",
            detail="The request failed; tell the operator the request id",
            instance=canonical_path(request.scope["path"]),
        ),
    )
