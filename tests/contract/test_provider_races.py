"""Many at once with one code or one refresh token, on every storage: exactly one gets tokens.

The others get `invalid_grant`, and what the first one got is worth nothing any more: one of them
was a thief, and nobody can say which.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from savannah.adapters.memory import ManualClock, MemoryRateLimiter, MemoryStorage
from savannah.adapters.passwords import Argon2Hasher
from savannah.adapters.proofs import JoseProofs
from savannah.adapters.system import SystemRandomness
from savannah.adapters.tokens import JoseTokens
from savannah.application.identity import IdentitySettings
from savannah.application.ports import LogoutSender
from savannah.application.savannah import Identity
from savannah.domain.access import Caller
from savannah.domain.errors import TokenRevoked
from savannah.domain.identity import Grant, GrantId, digest
from savannah.domain.oauth import AuthorizationCode, OAuthError, Parameters

ROUNDS, AT_ONCE = 20, 8
BACK = "https://till.example/back"
SCOPES = frozenset({"openid", "offline_access", "orders:read"})


class Silent(LogoutSender):
    async def send(self, uri: str, logout_token: str) -> bool:
        raise NotImplementedError


@pytest.fixture(scope="module")
def keys():
    return MemoryStorage()


@pytest.fixture
def identity(storage, keys):
    clock = ManualClock()
    return Identity.over(
        storage=storage,
        tokens=JoseTokens(
            storage=keys, clock=clock, secret_key="x", issuer="http://op.test", audience="savannah"
        ),
        hasher=Argon2Hasher(memory_kib=8, time_cost=1, threads=1),
        limiter=MemoryRateLimiter(clock),
        clock=clock,
        randomness=SystemRandomness(),
        proofs=JoseProofs(),
        logout_sender=Silent(),
        settings=IdentitySettings(),
        issuer="http://op.test",
        ticket_key=b"key",
    )


@pytest.fixture
def issue(identity):
    async def issue(client, **fields):
        """The tokens, or None for whoever was refused."""
        try:
            return await identity.issuance.issue(Parameters(fields.items()), client)
        except OAuthError as error:
            return None if error.error == "invalid_grant" else error

    return issue


async def all_revoked(identity, issued):
    for each in issued:
        with pytest.raises(TokenRevoked):
            await identity.logins.authenticate(each.access_token)


async def one_of_many(attempts):
    found = await asyncio.gather(*attempts)
    [won] = [each for each in found if each is not None]
    return won


@pytest.fixture
def till(make, keep, runner):
    """A client and its person, stored."""
    client = make.client("till", scopes=frozenset({"openid", "orders:read"}))
    john = make.user("john")
    runner.run(keep(client, john))
    return client, john


async def a_code(storage, make, user, number):
    at = ManualClock().now()
    grant = Grant(
        id=GrantId(make.id()), user_id=user.id, client_id="till", scopes=SCOPES, created_at=at
    )
    async with storage() as uow:
        await uow.grants.add(grant)
        await uow.handshakes.add_code(
            AuthorizationCode(
                digest=digest(f"code-{number}"),
                grant_id=grant.id,
                client_id="till",
                redirect_uri=BACK,
                code_challenge=None,
                created_at=at,
                expires_at=at + timedelta(minutes=1),
            )
        )
        await uow.commit()
    return f"code-{number}"


async def test_of_many_redemptions_at_once_exactly_one_gets_tokens(
    storage, make, identity, issue, till
):
    client, john = till
    for number in range(ROUNDS):
        code = await a_code(storage, make, john, number)
        fields = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK}
        won = await one_of_many(issue(client, **fields) for _ in range(AT_ONCE))
        await all_revoked(identity, [won])
        refused = await issue(client, grant_type="refresh_token", refresh_token=won.refresh_token)
        assert refused is None


async def test_of_many_refreshes_at_once_exactly_one_gets_tokens(
    storage, make, identity, issue, till
):
    client, john = till
    for number in range(ROUNDS):
        code = await a_code(storage, make, john, number)
        first = await issue(client, grant_type="authorization_code", code=code, redirect_uri=BACK)
        fields = {"grant_type": "refresh_token", "refresh_token": first.refresh_token}
        won = await one_of_many(issue(client, **fields) for _ in range(AT_ONCE))
        await all_revoked(identity, [first, won])
        fields["refresh_token"] = won.refresh_token
        assert await issue(client, **fields) is None


@pytest.mark.parametrize("end", ["logout", "disabled"])
async def test_no_grant_is_left_over_from_a_login_that_ends_meanwhile(storage, identity, end):
    boss = await identity.accounts.create_superuser(username="boss", password="Zawadi-2026")
    await identity.accounts.create_superuser(username="second", password="Zawadi-2026")
    admin = Caller.admin("tests")
    client, _ = await identity.apps.create_client(name="Till", redirect_uris=[BACK], by=admin)
    changes = {"skip_consent": True, "require_pkce": False}
    await identity.apps.configure_provider(client.client_id, changes, by=admin)
    fields = {"client_id": client.client_id, "redirect_uri": BACK, "response_type": "code"}
    request = Parameters(fields.items())

    async def over(cookie):
        if end == "logout":
            await identity.sessions.end(cookie)
        else:
            await identity.accounts.set_active(boss.id, active=False, by=None)

    for _ in range(ROUNDS):
        waiting = await identity.authorization.begin(request, cookie=None)
        opened, _ = await identity.authorization.log_in(
            waiting.ticket, cookie=None, username="boss", password="Zawadi-2026", address="::1"
        )
        many = (identity.authorization.begin(request, cookie=opened.cookie) for _ in range(4))
        *found, _ = await asyncio.gather(*many, over(opened.cookie))
        codes = [
            each.parameters["code"] for each in found if "code" in getattr(each, "parameters", {})
        ]
        async with storage(reading="fresh") as uow:
            for code in codes:
                kept = await uow.handshakes.find_code(digest(code))
                grant = await uow.grants.find(kept.grant_id)
                assert grant.revoked_at is not None
        await identity.accounts.set_active(boss.id, active=True, by=None)
