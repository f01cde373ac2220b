"""The OpenAPI 3.1 document: what the endpoints declare, put together once.

Nothing about an endpoint is said here; its `Operation` and its structs are the only source.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from savannah.domain.errors import SavannahError
from savannah.entrypoints.http import ops, problems, reference
from savannah.entrypoints.http.examples import EXAMPLES
from savannah.entrypoints.http.operations import (
    OPERATION,
    UUID_SCHEMA,
    VALUES_MOST,
    Operation,
    Param,
)
from savannah.entrypoints.http.routes import API_PREFIX, API_ROUTES

Json = dict[str, Any]

_ABOUT: Final = """\
Customers, their orders, and the text messages that go with them.

Log in at `POST /api/auth/login/` and send the access token as `Authorization: Bearer …`. Every path
works with and without its last slash. Refusals are problem documents (RFC 9457) with a stable
`code`. Later releases of this version may add optional fields, parameters, codes and enum values:
ignore what you do not know."""
_TAGS: Final = {
    "Auth": "Who may use this, and through which app.",
    "Apps": "The programs that ask for tokens, and their secrets.",
    "Users": "Who there is, and what they may do.",
    "Customers": "Whom the business sells to and texts.",
    "Orders": "What they ordered, and where it stands.",
    "Notifications": "The texts about orders, and what became of them.",
    "Callbacks of the gateway": "Where Africa's Talking tells us what became of a text.",
    "Operations": "For those who run the service.",
}
_PATH_PART: Final = re.compile(r"\{(\w+):\w+\}")
_SCHEMAS: Final = "#/components/schemas/{name}"

# Codes that no class of the core stands for: the door's own, and the families of `BadQuery`.
_DOOR_CODES: Final[Mapping[int, tuple[str, ...]]] = {
    400: (
        "malformed_json",
        "unknown_parameter",
        "invalid_parameter",
        "missing_parameter",
        "invalid_uuid",
        "invalid_cursor",
        "query_too_short",
        "range_too_large",
        "invalid_idempotency_key",
        "invalid_host",
        "bad_request",
    ),
    413: ("body_too_large",),
    415: ("unsupported_media_type",),
    428: ("precondition_required",),
    500: ("internal_error",),
}
_PROBLEM_ENTRY: Final[Json] = {
    "type": "object",
    "description": "One slip; where it is stands in `pointer`, `parameter` or `header`.",
    "properties": {
        "pointer": {
            "type": "string",
            "pattern": "^#(/.*)?$",
            "description": "A JSON Pointer (RFC 6901) into the body; `#` is all of it.",
        },
        "field": {"type": "string", "description": "The field's path in the body."},
        "parameter": {"type": "string", "description": "The query parameter."},
        "header": {"type": "string", "description": "The request header."},
        "code": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"},
        "detail": {"type": "string"},
    },
    "required": ["code", "detail"],
    "oneOf": [
        {"required": ["pointer", "field"]},
        {"required": ["parameter"]},
        {"required": ["header"]},
    ],
    "additionalProperties": False,
}
_PROBLEM: Final[Json] = {
    "type": "object",
    "description": "Why a request was refused (RFC 9457), and what the caller needs to go on.",
    "properties": {
        "type": {
            "type": "string",
            "format": "uri-reference",
            "pattern": "^/problems/[a-z_]+$",
            "description": "A page of this service about the code.",
        },
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "code": {"type": "string", "enum": sorted(problems.TITLES)},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The path of the request."},
        "request_id": {"type": "string", "pattern": "^[A-Za-z0-9._-]{8,64}$"},
        "errors": {
            "type": "array",
            "minItems": 1,
            "items": {"$ref": _SCHEMAS.format(name="ProblemEntry")},
        },
        "required_scope": {"type": "string", "description": "With `insufficient_scope`."},
        "current_version": {
            "type": "integer",
            "minimum": 1,
            "description": "With `version_conflict`: the revision to name in `If-Match`.",
        },
        "current_status": {"type": "string", "description": "Where the subject stands."},
        "allowed_transitions": {
            "type": "array",
            "items": {"$ref": _SCHEMAS.format(name="Status")},
            "description": "With `invalid_transition`: where this caller may take the order.",
        },
        "editable_fields": {
            "type": "array",
            "items": {"type": "string"},
            "description": "With `order_not_editable`.",
        },
        "open_orders": {
            "type": "integer",
            "minimum": 1,
            "description": "With `customer_has_open_orders`: how many.",
        },
        "available_events": {
            "type": "array",
            "items": {"$ref": _SCHEMAS.format(name="SmsEvent")},
            "description": "With `no_sms_for_status`.",
        },
    },
    "required": ["type", "title", "status", "code", "detail", "instance", "request_id"],
    "additionalProperties": False,
}

_HEADERS: Final[Json] = {
    "X-Request-ID": {
        "description": "Names this request in logs and problems.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{8,64}$"},
    },
    "ETag": {
        "description": "The revision, for `If-Match`.",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[1-9][0-9]*"$', "examples": ['"1"']},
    },
    "Location": {
        "description": "The path of what was made.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference", "pattern": "^/api/.+/$"},
    },
    "Link": {
        "description": "`next` and `prev` pages (RFC 8288), where there are any.",
        "schema": {"type": "string"},
    },
    "Idempotent-Replayed": {
        "description": "Present when this is the stored answer to an earlier request.",
        "schema": {"type": "string", "const": "true"},
    },
    "RateLimit-Limit": {
        "description": "Requests allowed in the window.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "RateLimit-Remaining": {
        "description": "Requests left in the window.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RateLimit-Reset": {
        "description": "Seconds until the window ends.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Retry-After": {
        "description": "Seconds to wait before trying again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "The challenge (RFC 6750).",
        "required": True,
        "schema": {"type": "string", "pattern": "^Bearer "},
    },
}
_LIMITS: Final = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")

_HEADER_PARAMETERS: Final[Json] = {
    "RequestId": {
        "name": "X-Request-ID",
        "in": "header",
        "description": "8 to 64 of `A-Za-z0-9._-`: becomes this request's id. Another is replaced.",
        "schema": {"type": "string", "examples": ["order-desk-000042"]},
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "description": "Go on only if the subject is at one of these revisions; `*`: any. A weak "
        "tag never matches. Settings of the service may require it.",
        "schema": {
            "type": "string",
            "pattern": r'^(\*|(W/)?"[^"]*"([ \t]*,[ \t]*(W/)?"[^"]*")*)$',
            "examples": ['"1"'],
        },
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Makes repeats of this request safe for 24 hours: they get the first "
        "answer, and nothing happens twice.",
        "schema": {
            "type": "string",
            "pattern": r"^[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?$",
            "examples": ["5f1b7a52-order-1"],
        },
    },
}


@cache
def document() -> Json:
    """The document of this release; needs no settings and no storage. Not to be changed."""
    return describe({API_PREFIX: API_ROUTES, "": ops.ROUTES})


@cache
def rendered() -> bytes:
    """The document as it is served."""
    return msgspec.json.encode(document())


def describe(handlers: Mapping[str, Iterable[HTTPRouteHandler]]) -> Json:
    """The document of these handlers, which stand under their path prefix."""
    paths: dict[str, Json] = {}
    operations: list[Operation] = []
    for prefix, group in handlers.items():
        for handler in group:
            operation: Operation = handler.opt[OPERATION]
            operations.append(operation)
            for path in sorted(handler.paths):
                item = paths.setdefault(_public(prefix + path), {})
                for method in sorted(handler.http_methods):
                    item[method.lower()] = _operation(operation, method, _PATH_PART.findall(path))
    structs = {
        struct
        for operation in operations
        for struct in (operation.body, operation.answer)
        if struct is not None
    }
    tags = dict.fromkeys(operation.tag for operation in operations)
    found = {
        "openapi": "3.1.0",
        "info": {
            "title": "Savannah",
            "version": version("savannah"),
            "summary": "An order desk that talks to customers by SMS.",
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag, "description": _TAGS[tag]} for tag in tags],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": _schemas(structs),
            "responses": {
                f"Problem{status}": _refusal(status, codes)
                for status, codes in sorted(_codes().items())
            },
            "parameters": _HEADER_PARAMETERS,
            "headers": _HEADERS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "The access token of a login or of an OAuth 2 grant.",
                }
            },
        },
    }
    plain: Json = msgspec.json.decode(msgspec.json.encode(found))
    return plain


def _public(path: str) -> str:
    """The canonical path: those of the API end in a slash, which the framework drops."""
    bare = _PATH_PART.sub(r"{\1}", path)
    return f"{bare}/" if bare.startswith(f"{API_PREFIX}/") else bare


def _operation(operation: Operation, method: str, path_names: Iterable[str]) -> Json:
    found: Json = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    about = [operation.about] if operation.about else []
    if operation.scope is not None:
        about.append(f"Needs the scope `{operation.scope}`.")
        found["x-required-scope"] = operation.scope
    if about:
        found["description"] = "\n\n".join(about)
    scopes = [] if operation.scope is None else [operation.scope]
    found["security"] = {
        "none": [],
        "optional": [{}, {"bearer": scopes}],
        "token": [{"bearer": scopes}],
    }[operation.auth]
    found["parameters"] = _parameters(operation, path_names)
    if operation.body is not None:
        kinds = ["application/json"]
        if method == "PATCH":
            kinds.append("application/merge-patch+json")
        schema = {"$ref": _SCHEMAS.format(name=operation.body.__name__)}
        found["requestBody"] = {
            "required": operation.body_required,
            "content": {kind: {"schema": schema} for kind in kinds},
        }
    if operation.form:
        found["requestBody"] = {
            "required": any(each.required for each in operation.form),
            "content": {"application/x-www-form-urlencoded": {"schema": _form(operation.form)}},
        }
    found["responses"] = _responses(operation)
    return found


def _form(fields: Iterable[Param]) -> Json:
    return {
        "type": "object",
        "properties": {each.name: {**each.schema, "description": each.about} for each in fields},
        "required": [each.name for each in fields if each.required],
    }


def _parameters(operation: Operation, path_names: Iterable[str]) -> list[Json]:
    found: list[Json] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": operation.path_schemas.get(name, UUID_SCHEMA),
        }
        for name in path_names
    ]
    found += [_query_parameter(param) for param in operation.query]
    names = ["RequestId"]
    names += ["IfMatch"] if operation.conditional else []
    names += ["IdempotencyKey"] if operation.idempotent else []
    found += [{"$ref": f"#/components/parameters/{name}"} for name in names]
    return found


def _query_parameter(param: Param) -> Json:
    found: Json = {"name": param.name, "in": "query", "description": param.about}
    if param.required:
        found["required"] = True
    if param.many:
        found["description"] += " Repeatable; a comma-separated list counts as repeats."
        found |= {"style": "form", "explode": True}
        found["schema"] = {"type": "array", "items": param.schema, "maxItems": VALUES_MOST}
    else:
        found["schema"] = param.schema
    return found


def _responses(operation: Operation) -> Json:
    names = ["X-Request-ID"]
    if operation.auth != "none" or operation.anonymous_limit:
        names += _LIMITS
    names += ["ETag"] if operation.etag else []
    names += ["Location"] if operation.location else []
    names += ["Link"] if operation.paged else []
    names += ["Idempotent-Replayed"] if operation.idempotent else []
    success: Json = {
        "description": HTTPStatus(operation.status).phrase,
        "headers": _header_refs(names),
    }
    if operation.answer is not None:
        schema = {"$ref": _SCHEMAS.format(name=operation.answer.__name__)}
        success["content"] = {"application/json": {"schema": schema}}
    elif operation.media is not None:
        success["content"] = {operation.media: {"schema": {"type": "string"}}}
    answers = {
        status: {**success, "description": HTTPStatus(status).phrase}
        for status in (operation.status, *operation.likewise)
    }
    statuses = {*operation.errors, 400, 500, 503}
    if operation.auth != "none":
        statuses |= {401, 403, 429}
    if operation.anonymous_limit:
        statuses.add(429)
    return {
        str(status): answers.get(status, {"$ref": f"#/components/responses/Problem{status}"})
        for status in sorted({*statuses, *answers})
    }


def _refusal(status: int, codes: Iterable[str]) -> Json:
    """The answer of one status: the problem, narrowed to the codes that come with it."""
    names = ["X-Request-ID", *_LIMITS]
    required = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
    headers = _header_refs(names)
    if status in required:
        headers |= _header_refs([required[status]])
    optional = {403: "WWW-Authenticate", 409: "Retry-After"}
    if status in optional:
        headers[optional[status]] = {**_HEADERS[optional[status]], "required": False}
    narrowed = {"properties": {"status": {"const": status}, "code": {"enum": sorted(codes)}}}
    problem = {"$ref": _SCHEMAS.format(name="Problem")}
    listed = ", ".join(f"`{code}`" for code in sorted(codes))
    return {
        "description": f"{HTTPStatus(status).phrase}: {listed}.",
        "headers": headers,
        "content": {problems.MEDIA_TYPE: {"schema": {"allOf": [problem, narrowed]}}},
    }


def _header_refs(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _codes() -> dict[int, set[str]]:
    """Which codes come with which status: from the error tree, and the door's own."""
    found = {status: set(codes) for status, codes in _DOOR_CODES.items()}
    waiting = [kind for kind, _ in problems.STATUS_OF]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        # A family without a code of its own stands for its leaves.
        if kind.code != SavannahError.code:
            status = next(status for base, status in problems.STATUS_OF if issubclass(kind, base))
            found.setdefault(status, set()).add(kind.code)
    return found


def _schemas(structs: Iterable[type[msgspec.Struct]]) -> Json:
    ordered = sorted(structs, key=lambda struct: struct.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=_SCHEMAS)
    found = {name: _tidied(schema) for name, schema in components.items()}
    found |= {"Problem": _PROBLEM, "ProblemEntry": _PROBLEM_ENTRY}
    return {
        name: {**schema, "examples": [EXAMPLES[name]]} if name in EXAMPLES else schema
        for name, schema in sorted(found.items())
    }


def _tidied(schema: Any) -> Any:
    """A schema as people would write it: no empty titles, nullable as a list of types."""
    if isinstance(schema, list):
        return [_tidied(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: {name: _tidied(each) for name, each in value.items()}
        if key == "properties"
        else _tidied(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "required" and not value)
    }
    if isinstance(about := found.get("description"), str):
        found["description"] = inspect.cleandoc(about)
    if "enum" in found and all(isinstance(value, str) for value in found["enum"]):
        found["type"] = "string"
    match found.get("anyOf"):
        case [{"type": str(kind)} as some, {"type": "null"}] if "enum" not in some:
            del found["anyOf"]
            found |= {**some, "type": [kind, "null"]}
        case _:
            pass
    return found


@get("/openapi.json", name="openapi", include_in_schema=False)
async def openapi_json() -> Response[bytes]:
    return Response(
        rendered(), media_type="application/json", headers={"Cache-Control": "no-cache"}
    )


@cache
def _page() -> bytes:
    return reference.page(document()).encode()


@get("/docs", name="docs", include_in_schema=False)
async def docs() -> Response[bytes]:
    return Response(
        _page(),
        media_type="text/html",
        headers={"Cache-Control": "no-cache", "Content-Security-Policy": reference.CSP},
    )


@cache
def _style() -> bytes:
    return (Path(__file__).parent / "docs_assets" / "reference.css").read_bytes()


@get("/docs/reference.css", name="docs_style", include_in_schema=False)
async def docs_style() -> Response[bytes]:
    return Response(_style(), media_type="text/css", headers={"Cache-Control": "no-cache"})


ROUTES = [openapi_json, docs, docs_style]
