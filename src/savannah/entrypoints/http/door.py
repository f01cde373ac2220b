"""What every handler stands on: the use cases, the options, and who is calling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Any, Final

import msgspec
from litestar import Response
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from savannah.adapters.prometheus import PrometheusMetrics
from savannah.application.ports import Clock, LimitState, RateLimiter
from savannah.application.savannah import Identity, Savannah
from savannah.application.trace import request_id_var
from savannah.domain.access import Caller
from savannah.domain.errors import (
    AuthenticationRequired,
    BadQuery,
    InvalidToken,
    RateLimited,
    Unauthenticated,
)
from savannah.domain.notification_policy import Rate
from savannah.domain.oauth import OAuthError
from savannah.entrypoints.health import Health
from savannah.entrypoints.http.paging import Cursors
from savannah.entrypoints.http.requests import AnyRequest, Query, operation_of
from savannah.entrypoints.watch import Watch

LIMIT_STATE: Final = "rate_limit_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """How the door behaves. `allowed_hosts` may hold `*`, and `.example.com` for a whole domain.

    Attributes:
        issuer: our public URL, the name of the OpenID provider; never taken from a request.
    """

    debug: bool
    issuer: str
    allowed_hosts: tuple[str, ...]
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    rate_limit: Rate | None = None
    rate_limit_auth: Rate | None = None
    require_if_match: bool = False
    request_timeout: timedelta | None = None
    cursor_key: bytes = field(repr=False)
    callback_token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The REST door, as its handlers see it.

    Attributes:
        watch: measures what a scrape shows besides the counters.
    """

    savannah: Savannah
    options: HttpOptions
    limiter: RateLimiter
    clock: Clock
    metrics: PrometheusMetrics
    cursors: Cursors
    health: Health
    watch: Watch

    @property
    def identity(self) -> Identity:
        identity = self.savannah.identity
        assert identity is not None, "the REST door needs accounts"
        return identity

    async def caller(self, request: AnyRequest) -> Caller:
        """Who is calling, checked against the operation's permission.

        Raises:
            Unauthenticated, InsufficientScope, AccountDisabled, RateLimited.
        """
        caller = await self.visitor(request)
        if caller is None:
            raise AuthenticationRequired
        if (scope := operation_of(request).scope) is not None:
            caller.require(scope)
        return caller

    async def visitor(self, request: AnyRequest) -> Caller | None:
        """Who is calling, None for nobody in particular.

        Operations without authentication do not look at tokens, so that none buys another limit.

        Raises:
            Unauthenticated, AccountDisabled, RateLimited.
        """
        operation = operation_of(request)
        shown = None if operation.auth == "none" else access_token(request)
        if shown is None:
            if operation.anonymous_limit:
                await self.count_anonymous(request)
            return None
        try:
            caller = await self.identity.logins.authenticate(
                shown.token,
                key_thumbprint=await key_thumbprint(request, self, shown),
                request_id=request_id_var.get(),
            )
        except Unauthenticated:
            await self.count_refused(request)
            raise
        await count_request(request, self, caller.principal, self.options.rate_limit)
        return caller

    def require_left(self, state: LimitState) -> None:
        """Raises: RateLimited, when a limit is used up."""
        if state.remaining == 0:
            raise _limited(state)

    async def count_anonymous(self, request: AnyRequest) -> None:
        """Count a request against the limit of its address. Raises: RateLimited."""
        key = f"address:{address_of(request)}"
        await count_request(request, self, key, self.options.rate_limit_auth)

    async def count_refused(self, request: AnyRequest) -> None:
        """Count a token that was refused, for guessing them has an end as well.

        Nobody in particular pays for it but the address. Raises: RateLimited.
        """
        key = f"refused:{address_of(request)}"
        await count_request(request, self, key, self.options.rate_limit)

    def currency_of(self, query: Query) -> str | None:
        """The currency a report is asked for in. Raises: BadQuery."""
        wanted = query.one("currency")
        if wanted is not None and wanted not in self.savannah.business.currencies:
            known = ", ".join(self.savannah.business.currencies)
            raise BadQuery("currency", f"Use one of {known}")
        return wanted


TheDoor = Door
TheCaller = Caller
TheVisitor = Caller | None

# Looks a path's subject up, to answer 404 before anything about the body.
LOOKING: Final = Caller.viewer("door")


@dataclass(frozen=True, slots=True)
class ShownToken:
    """An access token as it came, alone or with the proof of a key (RFC 9449)."""

    token: str = field(repr=False)
    bound: bool


def access_token(request: AnyRequest) -> ShownToken | None:
    """The access token of a request (RFC 6750 section 2.1); None when there is none.

    Raises:
        InvalidToken: the header has another form, or came more than once.
    """
    headers = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if not headers:
        return None
    scheme, _, token = headers[0].decode("latin-1").strip().partition(" ")
    if len(headers) > 1 or scheme.lower() not in ("bearer", "dpop") or not token.strip():
        raise InvalidToken
    return ShownToken(token.strip(), bound=scheme.lower() == "dpop")


async def key_thumbprint(request: AnyRequest, door: Door, shown: ShownToken) -> str | None:
    """Of the key whose holder makes this request; None where the token came alone.

    Raises: InvalidToken, for a proof that does not fit.
    """
    if not shown.bound:
        return None
    try:
        return await proved_key(request, door, token=shown.token)
    except OAuthError:
        raise InvalidToken from None


async def proved_key(request: AnyRequest, door: Door, *, token: str | None = None) -> str | None:
    """What the `DPoP` header proves; None without one.

    Raises: OAuthError, `invalid_dpop_proof`.
    """
    proofs = [value for name, value in request.scope["headers"] if name == b"dpop"]
    if not proofs and token is None:
        return None
    if len(proofs) != 1:
        raise OAuthError("invalid_dpop_proof", "Send one DPoP proof")
    return await door.identity.key_proofs.holder(
        proofs[0].decode("latin-1"),
        method=request.method,
        # As it came: the framework's path has neither its last slash nor its escapes.
        uri=door.options.issuer + request.scope["raw_path"].partition(b"?")[0].decode("latin-1"),
        token=token,
    )


def address_of(request: AnyRequest) -> str:
    """Whom a limit per address counts, as the gate has found them behind trusted proxies.

    A subscriber of IPv6 has at least 64 bits of addresses to choose from, so these count as one.
    """
    client = request.scope.get("client")
    try:
        address = ip_address(client[0] if client else "")
    except ValueError:
        return client[0] if client else "unknown"
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or IPv6Network((address, 64), strict=False))


async def count_request(request: AnyRequest, door: Door, key: str, rate: Rate | None) -> None:
    """Count a request against a limit. Raises: RateLimited."""
    if rate is None:
        return
    state: LimitState = await door.limiter.hit(f"http:{key}", rate)
    request.scope["state"][LIMIT_STATE] = state
    if not state.allowed:
        raise _limited(state)


def _limited(state: LimitState) -> RateLimited:
    return RateLimited(
        retry_after=state.reset_after,
        limit=state.limit,
        remaining=state.remaining,
        reset_after=state.reset_after,
    )


class JsonResponse(Response[bytes]):
    """An answer that is encoded already; it goes out as it is."""

    def to_asgi_response(self, *_: object, **__: object) -> ASGIApp:  # type: ignore[override]
        """Without what the framework would look up and convert for others."""
        body = self.content
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in self.headers.items()
        ]
        headers.append((b"content-type", b"application/json"))
        headers.append((b"content-length", b"%d" % len(body)))
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code or 200,
            "headers": headers,
        }

        async def answer(_: Scope, __: Receive, send: Send) -> None:
            await send(start)
            await send({"type": "http.response.body", "body": body, "more_body": False})

        return answer


def json_response(
    body: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    """An answer encoded here, once."""
    return JsonResponse(msgspec.json.encode(body), status_code=status, headers=dict(headers or {}))


def etag(version: int) -> dict[str, str]:
    """The entity tag of a revision."""
    return {"ETag": f'"{version}"'}


AnyResponse = Response[Any]
