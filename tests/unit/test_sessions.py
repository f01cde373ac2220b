"""Browser sessions and the provider's rarer moments, on the memory storage."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from office import HERE, PASSWORD, Office, Play, changed
from savannah.application.authorization import AskConsent, AskLogin
from savannah.domain.access import Caller
from savannah.domain.errors import InvalidCredentials, InvalidToken
from savannah.domain.identity import Client, Grant, GrantId, UserId, digest
from savannah.domain.oauth import (
    AuthorizationCode,
    BrowserSession,
    OAuthError,
    Parameters,
    PushedRequest,
)

BACK = "https://app.example/back"


async def asked(office: Office) -> tuple[Client, AskLogin]:
    """An app that waits for somebody to log in."""
    client, _ = await office.app(redirect_uris=[BACK])
    request = {
        "client_id": client.client_id,
        "redirect_uri": BACK,
        "response_type": "code",
        "scope": "openid",
        "code_challenge": "x" * 43,
        "code_challenge_method": "S256",
    }
    outcome = await office.identity.authorization.begin(Parameters(request.items()), cookie=None)
    assert isinstance(outcome, AskLogin)
    return client, outcome


async def logged_in(office: Office, waiting: AskLogin) -> str:
    opened, outcome = await office.identity.authorization.log_in(
        waiting.ticket, cookie=None, username="johndoe", password=PASSWORD, address=HERE
    )
    assert isinstance(outcome, AskConsent)
    return opened.cookie


def test_a_browser_login_that_a_password_change_overtakes_fails(play: Play) -> None:
    async def scene(office: Office) -> None:
        user = await office.john()
        _, waiting = await asked(office)
        john = replace(Caller.staff(f"user:{user.id}"), user_id=user.id)

        async def faster() -> None:
            await changed(office, john)

        office.hasher.meanwhile = faster
        with pytest.raises(InvalidCredentials):
            await logged_in(office, waiting)

    play(scene)


def test_of_two_logouts_at_once_one_is_noted(play: Play) -> None:
    async def scene(office: Office) -> None:
        user = await office.john()
        _, waiting = await asked(office)
        cookie = await logged_in(office, waiting)
        async with office.storage():  # both see the session, then wait for this one to end
            both = [asyncio.create_task(office.identity.sessions.end(cookie)) for _ in range(2)]
            for _ in range(10):
                await asyncio.sleep(0)
        await asyncio.gather(*both)
        assert (await office.actions("user", user.id)).count("user.logged_out") == 1

    play(scene)


def test_a_session_of_nobody_is_none(play: Play) -> None:
    async def scene(office: Office) -> None:
        now = office.clock.now()
        async with office.storage() as uow:
            await uow.sessions.add(
                BrowserSession(
                    id=uuid4(),
                    digest=digest("cookie"),
                    user_id=UserId(uuid4()),
                    auth_time=now,
                    created_at=now,
                    expires_at=now + timedelta(days=1),
                )
            )
            await uow.commit()
        assert await office.identity.sessions.current("cookie") is None

    play(scene)


def test_a_code_of_an_account_that_is_gone_is_worth_nothing(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, _ = await office.app(redirect_uris=[BACK])
        now = office.clock.now()
        grant = Grant(
            id=GrantId(uuid4()),
            user_id=UserId(uuid4()),
            client_id=client.client_id,
            scopes=frozenset({"openid"}),
            created_at=now,
        )
        async with office.storage() as uow:
            await uow.grants.add(grant)
            await uow.handshakes.add_code(
                AuthorizationCode(
                    digest=digest("code"),
                    grant_id=grant.id,
                    client_id=client.client_id,
                    redirect_uri=BACK,
                    code_challenge=None,
                    created_at=now,
                    expires_at=now + timedelta(minutes=1),
                )
            )
            await uow.commit()
        fields = {"grant_type": "authorization_code", "code": "code", "redirect_uri": BACK}
        with pytest.raises(OAuthError, match="invalid_grant"):
            await office.identity.issuance.issue(Parameters(fields.items()), client)

    play(scene)


def test_what_is_over_is_swept(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        _, waiting = await asked(office)
        cookie = await logged_in(office, waiting)
        now = office.clock.now()
        async with office.storage() as uow:
            await uow.handshakes.push(
                PushedRequest(digest="d", client_id="c", parameters=(), expires_at=now)
            )
            await uow.commit()
        await office.identity.sessions.sweep()
        async with office.storage() as uow:
            assert await uow.handshakes.take_pushed("d", "c") is None
            assert await uow.sessions.find(digest(cookie)) is not None
        office.clock.advance(timedelta(days=200))
        await office.identity.sessions.sweep()
        async with office.storage(reading=True) as uow:
            assert await uow.sessions.find(digest(cookie)) is None

    play(scene)


def test_a_bound_token_is_refused_as_a_bearer(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, _, token = await office.machine()
        claims = await office.tokens.read_access(token)
        bound = await office.tokens.sign_access(replace(claims, key_thumbprint="t" * 43))
        assert (await office.tokens.read_access(bound)).key_thumbprint == "t" * 43
        with pytest.raises(InvalidToken):
            await office.logins.authenticate(bound)
        caller = await office.logins.authenticate(bound, key_thumbprint="t" * 43)
        assert caller.client_id == client.client_id

    play(scene)
