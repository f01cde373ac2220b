"""Reading what OAuth clients and browsers send: forms and queries, strictly, in our own shape.

The framework would replace what is not UTF-8, lose the order, and answer in words of its own.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from savannah.domain.oauth import OAuthError, Parameters
from savannah.entrypoints.http.requests import AnyRequest, read_body

_FORM: Final = "application/x-www-form-urlencoded"
_FIELDS_MOST: Final = 100


async def read_form(request: AnyRequest) -> Parameters:
    """The fields of a form body.

    Raises:
        OAuthError: `invalid_request`. HTTPException: 413, of the framework.
    """
    raw = await read_body(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM:
        raise OAuthError("invalid_request", f"Send the body as {_FORM}")
    return _parsed(raw)


def read_query(request: AnyRequest) -> Parameters:
    """Raises: OAuthError, `invalid_request`."""
    return _parsed(request.scope["query_string"])


def _parsed(raw: bytes) -> Parameters:
    try:
        pairs = parse_qsl(
            raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=_FIELDS_MOST
        )
    except ValueError:
        raise OAuthError("invalid_request", "The parameters cannot be read") from None
    if any("\0" in name or "\0" in value for name, value in pairs):
        raise OAuthError("invalid_request", "The parameters cannot be read")
    return Parameters(pairs)
