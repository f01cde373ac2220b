"""Use cases of the authorization endpoint: who is at the browser, and what an app may get.

A request that has to wait for a person travels as a ticket: its parameters, signed by us. So
nobody fills our storage without logging in first. Source: OpenID Connect Core 1.0 section 3.1.2.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from savannah.application.identity import AuditLog
from savannah.application.passwords import Passwords
from savannah.application.ports import Clock, Randomness, Storage, Tokens, UnitOfWork
from savannah.application.sessions import LoggedIn, Sessions
from savannah.domain.clients import Client, is_plain
from savannah.domain.errors import InvalidToken
from savannah.domain.identity import ALPHANUMERIC, SECRET_LENGTH, Grant, GrantId, User, digest
from savannah.domain.oauth import (
    REQUEST_URI_PREFIX,
    AuthorizationCode,
    AuthorizationRequest,
    Consent,
    OAuthError,
    Parameters,
    PushedRequest,
    ReturnAddress,
    UnsafeRequest,
    answer_parameters,
    authorization_request,
    granted_scopes,
    return_address,
)

CODE_TTL: Final = timedelta(seconds=60)
PUSHED_TTL: Final = timedelta(seconds=60)
TICKET_TTL: Final = timedelta(minutes=30)
# What a browser can carry in an address, with room for what signing adds.
PARAMETERS_MOST: Final = 6000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Send the browser back to the client."""

    address: ReturnAddress
    parameters: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskLogin:
    """Somebody has to log in before `client` gets anything."""

    client: Client
    address: ReturnAddress
    ticket: str = field(repr=False)
    login_hint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskConsent:
    """`user` has to say whether `client` may have these scopes."""

    client: Client
    address: ReturnAddress
    ticket: str = field(repr=False)
    user: User
    scopes: frozenset[str]


Outcome = Answer | AskLogin | AskConsent


@dataclass(frozen=True, slots=True)
class _Ticket:
    """A request that waits.

    Attributes:
        session: the browser session that has logged in for it.
        shown: the scopes that its person was asked about.
    """

    parameters: Parameters
    session: UUID | None
    shown: frozenset[str] = frozenset()


class Authorization:
    """Answers authorization requests; every way out of it is an `Outcome` or an UnsafeRequest."""

    def __init__(
        self,
        *,
        storage: Storage,
        tokens: Tokens,
        passwords: Passwords,
        sessions: Sessions,
        audit: AuditLog,
        clock: Clock,
        randomness: Randomness,
        issuer: str,
        resources: Sequence[str],
        ticket_key: bytes,
    ) -> None:
        self._storage = storage
        self._tokens = tokens
        self._passwords = passwords
        self._sessions = sessions
        self._audit = audit
        self._clock = clock
        self._randomness = randomness
        self._issuer = issuer
        self._resources = tuple(resources)
        self._ticket_key = ticket_key

    async def begin(self, parameters: Parameters, *, cookie: str | None) -> Outcome:
        """A request as it came; `cookie` is the value of the session cookie.

        Raises: UnsafeRequest, to be told on a page and never by redirect.
        """
        client = await self._client(parameters)
        request_uri = parameters.many("request_uri")
        if len(request_uri) == 1 and request_uri[0].startswith(REQUEST_URI_PREFIX):
            parameters = await self._pushed(request_uri[0], client)
        if parameters.length > PARAMETERS_MOST:
            raise UnsafeRequest("invalid_request", "The request is too long")
        return await self._proceed(_Ticket(parameters, None), client, cookie)

    async def log_in(
        self,
        ticket: str,
        *,
        cookie: str | None,
        username: str,
        password: str,
        address: str,
        request_id: str | None = None,
    ) -> tuple[LoggedIn, Outcome]:
        """The session of whoever has typed this password, and how the request goes on.

        Raises:
            UnsafeRequest, InvalidCredentials, TooManyAttempts; AccountDisabled, and only with the
            right password.
        """
        waiting = self._opened(ticket)
        client = await self._client(waiting.parameters)
        while True:
            proof = await self._passwords.prove(
                username=username,
                password=password,
                client=client,
                address=address,
                request_id=request_id,
            )
            opened = await self._sessions.open(proof, cookie=cookie)
            if opened is not None:
                break  # else the password was changed meanwhile, so this one is looked at again
        await self._passwords.forget_failures(proof)
        satisfied = _Ticket(waiting.parameters, opened.session.id)
        return opened, await self._proceed(satisfied, client, opened.cookie)

    async def asked_for(self, ticket: str) -> AskLogin:
        """The login page of a request once more, after a slip. Raises: UnsafeRequest."""
        waiting = self._opened(ticket)
        client = await self._client(waiting.parameters)
        address = return_address(waiting.parameters, client)
        return AskLogin(client=client, address=address, ticket=ticket, login_hint=None)

    async def resume(self, ticket: str, *, cookie: str | None) -> Outcome:
        """A request that waited for a login. Raises: UnsafeRequest."""
        waiting = self._opened(ticket)
        return await self._proceed(waiting, await self._client(waiting.parameters), cookie)

    async def decide(
        self, ticket: str, *, cookie: str | None, allow: bool, request_id: str | None = None
    ) -> Outcome:
        """What a person has decided about an app. Raises: UnsafeRequest."""
        waiting = self._opened(ticket)
        client = await self._client(waiting.parameters)
        address = return_address(waiting.parameters, client)
        here = await self._sessions.current(cookie)
        if here is None or here.session.id != waiting.session or not waiting.shown:
            return await self._proceed(_Ticket(waiting.parameters, None), client, cookie)
        if not allow:
            return self._refusal(address, OAuthError("access_denied", "The person has refused"))
        try:
            request = self._request(waiting.parameters, client, address)
            # Of what was shown, for role or app may have been given more since.
            scopes = granted_scopes(waiting.shown, client, here.user.role)
            return await self._answer(
                request, client, here, scopes, consented=True, request_id=request_id
            )
        except OAuthError as error:
            return self._refusal(address, error)

    async def push(self, parameters: Parameters, *, client: Client) -> tuple[str, int]:
        """Keep a request for its client: the `request_uri`, and how many seconds it is good for.

        Source: RFC 9126. Raises: OAuthError.
        """
        if parameters.one("request_uri") is not None:
            raise OAuthError("invalid_request", "A pushed request holds no request_uri")
        try:
            address = return_address(parameters, client)
        except UnsafeRequest as error:
            raise OAuthError(error.error, error.description) from None
        self._request(parameters, client, address)
        secret = self._randomness.symbols(ALPHANUMERIC, SECRET_LENGTH)
        kept = [pair for pair in parameters.pairs if pair[0] not in _CREDENTIALS]
        if Parameters(kept).length > PARAMETERS_MOST:
            raise OAuthError("invalid_request", "The request is too long")
        async with self._storage() as uow:
            await uow.handshakes.push(
                PushedRequest(
                    digest=digest(secret),
                    client_id=client.client_id,
                    parameters=(*kept, ("client_id", client.client_id))
                    if parameters.one("client_id") is None
                    else tuple(kept),
                    expires_at=self._clock.now() + PUSHED_TTL,
                )
            )
            await uow.commit()
        return REQUEST_URI_PREFIX + secret, int(PUSHED_TTL.total_seconds())

    # --- steps of a request ----------------------------------------------------------------------

    async def _client(self, parameters: Parameters) -> Client:
        """Raises: UnsafeRequest."""
        try:
            client_id = parameters.required("client_id")
        except OAuthError as error:
            raise UnsafeRequest(error.error, error.description) from None
        client = None
        if is_plain(client_id):
            async with self._storage(reading="fresh") as uow:
                client = await uow.clients.find(client_id)
        if client is None or not client.is_active:
            raise UnsafeRequest("invalid_request", "The client is not known here")
        return client

    async def _pushed(self, request_uri: str, client: Client) -> Parameters:
        secret = request_uri.removeprefix(REQUEST_URI_PREFIX)
        async with self._storage() as uow:
            pushed = await uow.handshakes.take_pushed(digest(secret), client.client_id)
            await uow.commit()
        if pushed is None or pushed.expires_at <= self._clock.now():
            raise UnsafeRequest("invalid_request_uri", "The request_uri is unknown or has expired")
        return Parameters(pushed.parameters)

    def _request(
        self, parameters: Parameters, client: Client, address: ReturnAddress
    ) -> AuthorizationRequest:
        return authorization_request(parameters, client, address, resources=self._resources)

    async def _proceed(self, waiting: _Ticket, client: Client, cookie: str | None) -> Outcome:
        address = return_address(waiting.parameters, client)
        try:
            request = self._request(waiting.parameters, client, address)
            return await self._next_step(waiting, request, client, cookie)
        except OAuthError as error:
            return self._refusal(address, error)

    async def _next_step(
        self, waiting: _Ticket, request: AuthorizationRequest, client: Client, cookie: str | None
    ) -> Outcome:
        here = await self._sessions.current(cookie)
        silent = "none" in request.prompts
        satisfied = here is not None and here.session.id == waiting.session
        named = await self._is_named(request, here)
        if satisfied and not named:
            raise OAuthError("login_required", "Somebody else has logged in")
        if here is None or not named or (not satisfied and self._is_stale(request, here)):
            if silent:
                raise OAuthError("login_required", "Nobody suitable is logged in")
            return AskLogin(
                client=client,
                address=request.address,
                ticket=self._sealed(_Ticket(waiting.parameters, None)),
                login_hint=request.login_hint,
            )
        scopes = granted_scopes(request.scope, client, here.user.role)
        if await self._has_to_ask(request, client, here, scopes):
            if silent:
                raise OAuthError("consent_required", "The person has not been asked yet")
            return AskConsent(
                client=client,
                address=request.address,
                ticket=self._sealed(_Ticket(waiting.parameters, here.session.id, scopes)),
                user=here.user,
                scopes=scopes,
            )
        return await self._answer(request, client, here, scopes)

    async def _is_named(self, request: AuthorizationRequest, here: LoggedIn | None) -> bool:
        """Whether whoever is logged in is the person the client means."""
        if request.id_token_hint is None:
            return True
        try:
            hint = await self._tokens.read_hint(request.id_token_hint)
        except InvalidToken:
            raise OAuthError("invalid_request", "The id_token_hint is not one of ours") from None
        return here is None or str(here.user.id) == hint.subject

    def _is_stale(self, request: AuthorizationRequest, here: LoggedIn) -> bool:
        """Whether the person has to log in anew."""
        if request.prompts & {"login", "select_account"}:
            return True
        age = self._clock.now() - here.session.auth_time
        return request.max_age is not None and (
            request.max_age == 0 or age > timedelta(seconds=request.max_age)
        )

    async def _has_to_ask(
        self,
        request: AuthorizationRequest,
        client: Client,
        here: LoggedIn,
        scopes: frozenset[str],
    ) -> bool:
        if "consent" in request.prompts:
            return True
        async with self._storage(reading="fresh") as uow:
            return not await self._is_covered(uow, client, here, scopes)

    async def _is_covered(
        self, uow: UnitOfWork, client: Client, here: LoggedIn, scopes: frozenset[str]
    ) -> bool:
        if client.metadata.skip_consent:
            return True
        given = await uow.consents.find(here.user.id, client.client_id)
        return given is not None and scopes <= given.scopes

    async def _answer(
        self,
        request: AuthorizationRequest,
        client: Client,
        here: LoggedIn,
        scopes: frozenset[str],
        *,
        consented: bool = False,
        request_id: str | None = None,
    ) -> Answer:
        """A code for what was granted; `consented`: the person has just agreed to it."""
        now, code = self._clock.now(), self._randomness.symbols(ALPHANUMERIC, SECRET_LENGTH)
        grant = Grant(
            id=GrantId(self._randomness.uuid()),
            user_id=here.user.id,
            client_id=client.client_id,
            scopes=scopes,
            created_at=now,
            resources=request.resources,
            session_id=here.session.id,
            nonce=request.nonce,
            auth_time=here.session.auth_time,
        )
        async with self._storage() as uow:
            # What ends logins and consents does so for the grants it finds; from here on it waits.
            if await self._sessions.hold(uow, here) is None:
                raise OAuthError("login_required", "The person has been logged out")
            if not consented and not await self._is_covered(uow, client, here, scopes):
                raise OAuthError("consent_required", "The person has withdrawn the consent")
            if consented:
                before = await uow.consents.find(here.user.id, client.client_id)
                await uow.consents.put(
                    Consent(
                        user_id=here.user.id,
                        client_id=client.client_id,
                        scopes=scopes if before is None else scopes | before.scopes,
                        given_at=now,
                    )
                )
                actor, app = f"user:{here.user.id}", client.client_id
                await self._audit.record(
                    uow, "user.consented", here.user.id, actor, request_id, client=app
                )
            await uow.grants.add(grant)
            await uow.handshakes.add_code(
                AuthorizationCode(
                    digest=digest(code),
                    grant_id=grant.id,
                    client_id=client.client_id,
                    redirect_uri=request.address.redirect_uri,
                    code_challenge=request.code_challenge,
                    created_at=now,
                    expires_at=now + CODE_TTL,
                )
            )
            await uow.commit()
        return Answer(
            address=request.address,
            parameters=answer_parameters(request.address, self._issuer, {"code": code}),
        )

    def _refusal(self, address: ReturnAddress, error: OAuthError) -> Answer:
        said = {"error": error.error, "error_description": error.description}
        return Answer(address=address, parameters=answer_parameters(address, self._issuer, said))

    # --- tickets ---------------------------------------------------------------------------------

    def _sealed(self, waiting: _Ticket) -> str:
        session = None if waiting.session is None else str(waiting.session)
        at = self._clock.now().timestamp()
        body = json.dumps([waiting.parameters.pairs, session, sorted(waiting.shown), at]).encode()
        return f"{_base64(body)}.{_base64(self._seal(body))}"

    def _opened(self, ticket: str) -> _Ticket:
        """Raises: UnsafeRequest, for one that is not ours or that is too old."""
        try:
            body, seal = (base64.urlsafe_b64decode(part + "==") for part in ticket.split("."))
        except ValueError:
            raise _too_old() from None
        if not hmac.compare_digest(seal, self._seal(body)):
            raise _too_old()
        pairs, session, shown, at = json.loads(body)
        if self._clock.now() - datetime.fromtimestamp(at, UTC) > TICKET_TTL:
            raise _too_old()
        return _Ticket(
            _parameters(pairs), None if session is None else UUID(session), frozenset(shown)
        )

    def _seal(self, body: bytes) -> bytes:
        return hmac.digest(self._ticket_key, body, "sha256")


# Never kept, and never part of a request at the authorization endpoint.
_CREDENTIALS: Final = frozenset({"client_secret", "client_assertion", "client_assertion_type"})


def _too_old() -> UnsafeRequest:
    return UnsafeRequest("invalid_request", "This page is too old: start again in the app")


def _parameters(pairs: Iterable[Sequence[str]]) -> Parameters:
    return Parameters((name, value) for name, value in pairs)


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
