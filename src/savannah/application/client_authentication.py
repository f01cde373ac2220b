"""Who a client is at the endpoints that clients call themselves.

Source: RFC 6749 section 2.3, OpenID Connect Core section 9, RFC 7523.
"""

from __future__ import annotations

import base64
from collections.abc import Collection
from datetime import timedelta
from typing import Final
from urllib.parse import unquote_plus

from savannah.application.identity import ClientSecrets
from savannah.application.ports import Clock, ForeignProofs, Storage
from savannah.domain.clients import AuthMethod, Client, ClientType, is_plain
from savannah.domain.errors import InvalidClient, InvalidToken
from savannah.domain.identity import digest
from savannah.domain.oauth import OAuthError, Parameters

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_TTL: Final = timedelta(minutes=5)
SKEW: Final = timedelta(seconds=60)
_BASIC_MOST: Final = 2048


class ClientAuthentication:
    """Finds out which client calls; every failure looks and costs the same."""

    def __init__(
        self,
        *,
        storage: Storage,
        secrets: ClientSecrets,
        proofs: ForeignProofs,
        clock: Clock,
        issuer: str,
    ) -> None:
        self._storage = storage
        self._secrets = secrets
        self._proofs = proofs
        self._clock = clock
        self._issuer = issuer

    async def client(
        self,
        parameters: Parameters,
        *,
        authorization: str | None,
        endpoints: Collection[str],
        address: str,
        request_id: str | None = None,
    ) -> Client:
        """The client that has shown who it is; a public one only says its name.

        Args:
            parameters: of the form body.
            authorization: the value of that header, where there was one.
            endpoints: URLs that an assertion may be meant for, besides our issuer.
            address: where the request comes from; wrong secrets are counted by it.

        Raises:
            OAuthError: `invalid_client`; `invalid_request` for two ways at once.
            TooManyAttempts.
        """
        named = parameters.one("client_id")
        secret = parameters.one("client_secret")
        assertion = parameters.one("client_assertion")
        kind = parameters.one("client_assertion_type")
        ways = [way for way in (authorization, secret, assertion or kind) if way is not None]
        if len(ways) > 1:
            raise OAuthError("invalid_request", "Use one way of client authentication")
        if authorization is not None:
            client_id, secret = _basic(authorization)
            method = AuthMethod.BASIC
        elif assertion is not None or kind is not None:
            if kind != ASSERTION_TYPE or assertion is None:
                raise _unknown()
            return await self._by_assertion(named, assertion, endpoints)
        else:
            client_id = named or ""
            method = AuthMethod.NONE if secret is None else AuthMethod.POST
        if named not in (None, client_id):
            raise OAuthError("invalid_request", "The client_id is that of another client")
        try:
            client = await self._secrets.check(
                await self._find(client_id),
                client_id,
                secret,
                address=address,
                request_id=request_id,
            )
        except InvalidClient:
            raise _unknown() from None
        if not _may_use(client, method):
            raise _unknown()
        return client

    async def _find(self, client_id: str) -> Client | None:
        # Older data would let a client in that was just disabled.
        async with self._storage(reading="fresh") as uow:
            client = await uow.clients.find(client_id if is_plain(client_id) else "")
        return client if client is not None and client.is_active else None

    async def _by_assertion(
        self, named: str | None, assertion: str, endpoints: Collection[str]
    ) -> Client:
        """Source: RFC 7523 section 3; an assertion is good once."""
        now = self._clock.now()
        client = await self._find(named or await self._claimed_subject(assertion))
        if client is None or client.metadata.jwks is None:
            raise _unknown()
        try:
            said = await self._proofs.read_assertion(assertion, client.metadata.jwks)
        except InvalidToken:
            raise _unknown() from None
        timely = now - SKEW < said.expires_at <= now + ASSERTION_TTL + SKEW
        if said.not_before is not None and said.not_before > now + SKEW:
            timely = False
        ours = len(said.audiences) == 1 and said.audiences[0] in (self._issuer, *endpoints)
        if {said.issuer, said.subject} != {client.client_id} or not timely or not ours:
            raise _unknown()
        if not _may_use(client, AuthMethod.PRIVATE_KEY_JWT):
            raise _unknown()
        async with self._storage() as uow:
            first = await uow.handshakes.claim(
                digest(f"assertion {client.client_id} {said.token_id}"),
                expires_at=said.expires_at + SKEW,
            )
            await uow.commit()
        if not first:
            raise _unknown()
        return client

    async def _claimed_subject(self, assertion: str) -> str:
        """Whose assertion this says it is; nothing is believed before the signature is checked."""
        try:
            return await self._proofs.claimed_issuer(assertion)
        except InvalidToken:
            raise _unknown() from None


def _may_use(client: Client, method: AuthMethod) -> bool:
    """The method a client has registered is the only one; without, its secret in either form."""
    registered = client.metadata.token_endpoint_auth_method
    if registered is not None:
        return method is registered
    if client.client_type is ClientType.PUBLIC:
        return method is AuthMethod.NONE
    return method in (AuthMethod.BASIC, AuthMethod.POST)


def _basic(authorization: str) -> tuple[str, str]:
    """Id and secret, both form-encoded (RFC 6749 section 2.3.1). Raises: OAuthError."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > _BASIC_MOST:
        raise _unknown()
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:
        raise _unknown() from None
    client_id, colon, secret = decoded.partition(":")
    if not colon:
        raise _unknown()
    return unquote_plus(client_id), unquote_plus(secret)


def _unknown() -> OAuthError:
    return OAuthError("invalid_client", "The client is unknown or did not show who it is")
