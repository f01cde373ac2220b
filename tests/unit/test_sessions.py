"""Browser sessions and the provider's rarer moments, on the memory storage."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from office import HERE, PASSWORD, Office, Play, changed
from savannah.application.authorization import Answer, AskConsent, AskLogin
from savannah.application.passwords import Proof
from savannah.application.ports import UnitOfWork
from savannah.domain.access import Caller, Role
from savannah.domain.clients import Client
from savannah.domain.errors import Invalid, InvalidCredentials, InvalidToken
from savannah.domain.events import LOGIN_ACTIONS
from savannah.domain.identity import Grant, GrantId, User, UserId, digest
from savannah.domain.oauth import (
    AuthorizationCode,
    BrowserSession,
    LogoutNotice,
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


@pytest.mark.parametrize("end", ["logout", "password", "disabled", "withdrawn"])
def test_no_code_outlives_what_has_just_ended_the_login(
    play: Play, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    async def scene(office: Office) -> None:
        user = await office.john()
        client, waiting = await asked(office)
        cookie = await logged_in(office, waiting)
        authorization, sessions = office.identity.authorization, office.identity.sessions
        request = authorization._opened(waiting.ticket).parameters
        asking = await authorization.begin(request, cookie=cookie)
        assert isinstance(asking, AskConsent)
        answer = await authorization.decide(asking.ticket, cookie=cookie, allow=True)
        assert isinstance(answer, Answer)
        assert "code" in answer.parameters
        john = replace(Caller.staff(f"user:{user.id}"), user_id=user.id)
        covered = authorization._has_to_ask

        async def faster(*args: Any) -> bool:
            """Everything has been looked at, then this comes in between."""
            found = await covered(*args)
            if end == "logout":
                await sessions.end(cookie)
            elif end == "password":
                await changed(office, john)
            elif end == "disabled":
                await office.accounts.set_active(user.id, active=False, by=None)
            else:
                await office.accounts.withdraw_consent(client.client_id, by=john)
            return found

        monkeypatch.setattr(authorization, "_has_to_ask", faster)
        late = await authorization.begin(request, cookie=cookie)
        assert isinstance(late, Answer)
        word = "consent_required" if end == "withdrawn" else "login_required"
        assert late.parameters["error"] == word
        assert "code" not in late.parameters

    play(scene)


@pytest.mark.parametrize("end", ["password", "disabled"])
def test_apps_hear_of_it_when_all_of_somebodys_logins_end(play: Play, end: str) -> None:
    async def scene(office: Office) -> None:
        user = await office.john()
        client, waiting = await asked(office)
        told = {"backchannel_logout_uri": "https://app.example/out"}
        await office.apps.configure_provider(client.client_id, told, by=None)
        cookie = await logged_in(office, waiting)
        authorization = office.identity.authorization
        asking = await authorization.resume(waiting.ticket, cookie=cookie)
        assert isinstance(asking, AskConsent)
        await authorization.decide(asking.ticket, cookie=cookie, allow=True)
        assert await office.identity.sessions.deliver_notices() == 0
        if end == "password":
            await changed(office, replace(Caller.staff(f"user:{user.id}"), user_id=user.id))
        else:
            await office.accounts.set_active(user.id, active=False, by=None)
        assert await office.identity.sessions.current(cookie) is None
        assert await office.identity.sessions.deliver_notices() == 1
        [(uri, _)] = office.logout_sender.sent
        assert uri == "https://app.example/out"

    play(scene)


def test_an_app_that_does_not_answer_keeps_no_other_waiting(play: Play) -> None:
    """One after the other, twenty of them would outlive their leases and be told twice."""

    async def scene(office: Office) -> None:
        now = office.clock.now()
        async with office.storage() as uow:
            for place in range(3):
                await uow.logout_notices.add(
                    LogoutNotice(
                        id=uuid4(),
                        client_id=f"app-{place}",
                        uri=f"https://{place}.example/out",
                        user_id=UserId(uuid4()),
                        session_id=uuid4(),
                        created_at=now,
                        due_at=now,
                    )
                )
            await uow.commit()
        office.logout_sender.barrier = asyncio.Barrier(3)
        async with asyncio.timeout(60):
            assert await office.identity.sessions.deliver_notices() == 3
        assert len(office.logout_sender.sent) == 3

    play(scene)


def test_a_login_does_not_revive_a_session_that_has_just_ended(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        _, waiting = await asked(office)
        cookie = await logged_in(office, waiting)
        authorization, sessions = office.identity.authorization, office.identity.sessions
        before = await sessions.current(cookie)
        assert before is not None
        admit = office.identity.sessions._passwords.admit

        async def after_the_end(uow: UnitOfWork, proof: Proof) -> User | None:
            await uow.sessions.end(before.session.id, at=office.clock.now())
            return await admit(uow, proof)

        office.identity.sessions._passwords.admit = after_the_end  # type: ignore[method-assign]
        opened, _ = await authorization.log_in(
            waiting.ticket, cookie=cookie, username="johndoe", password=PASSWORD, address=HERE
        )
        assert opened.session.id != before.session.id
        async with office.storage(reading=True) as uow:
            kept = await uow.sessions.get(before.session.id)
        assert kept is not None
        assert kept.ended_at is not None

    play(scene)


def test_nobody_allows_more_than_the_page_has_shown(play: Play) -> None:
    async def scene(office: Office) -> None:
        user = await office.john()
        await office.accounts.set_role(user.id, Role.VIEWER, by=None)
        client, _ = await office.app(redirect_uris=[BACK], scopes=["read", "write"])
        request = {
            "client_id": client.client_id,
            "redirect_uri": BACK,
            "response_type": "code",
            "code_challenge": "x" * 43,
            "code_challenge_method": "S256",
        }
        authorization = office.identity.authorization
        first = await authorization.begin(Parameters(request.items()), cookie=None)
        assert isinstance(first, AskLogin)
        opened, shown = await authorization.log_in(
            first.ticket, cookie=None, username="johndoe", password=PASSWORD, address=HERE
        )
        assert isinstance(shown, AskConsent)
        assert "orders:write" not in shown.scopes
        await office.accounts.set_role(user.id, Role.STAFF, by=None)
        await authorization.decide(shown.ticket, cookie=opened.cookie, allow=True)
        async with office.storage(reading=True) as uow:
            consent = await uow.consents.find(user.id, client.client_id)
        assert consent is not None
        assert consent.scopes == shown.scopes
        more = await authorization.begin(Parameters(request.items()), cookie=opened.cookie)
        assert isinstance(more, AskConsent)

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


async def used_in_every_way(office: Office) -> None:
    """Log in and out, guess, steal and give back: all that uses accounts and apps, and no more."""
    await office.john()
    client, secret = await office.app(redirect_uris=[BACK])
    issuance = office.identity.issuance
    for username in ("johndoe", "nobody"):
        with pytest.raises(InvalidCredentials):
            await office.login(client, secret, username=username, password="a guess")
    stolen, returned, ended = [await office.login(client, secret) for _ in range(3)]
    fields = {"grant_type": "refresh_token", "refresh_token": stolen.refresh_token or ""}
    await issuance.issue(Parameters(fields.items()), client)
    with pytest.raises(OAuthError):
        await issuance.issue(Parameters(fields.items()), client)
    await issuance.revoke(returned.access_token, client)
    john = await office.logins.authenticate(ended.access_token)
    with pytest.raises(Invalid):
        await changed(office, john, old="a guess")
    await office.logins.logout(by=john)

    now = office.clock.now()
    grant = Grant(
        id=GrantId(uuid4()),
        user_id=ended.user.id,
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
                expires_at=now,
                consumed_at=now,
            )
        )
        await uow.commit()
    fields = {"grant_type": "authorization_code", "code": "code", "redirect_uri": BACK}
    with pytest.raises(OAuthError):
        await issuance.issue(Parameters(fields.items()), client)

    erp, caller, _ = await office.machine()
    await office.logins.logout(by=caller)
    fields = {"grant_type": "client_credentials", "scope": "orders:read"}
    machine = await issuance.issue(Parameters(fields.items()), erp)
    await issuance.revoke(machine.access_token, erp)


async def told(office: Office) -> set[str]:
    """The actions that the audit log tells of."""
    async with office.storage(reading=True) as uow:
        return {event.action for each in uow._tables.events.values() for event in each}


def test_the_audit_log_tells_of_logins_for_a_time_and_of_changes_for_ever(play: Play) -> None:
    async def scene(office: Office) -> None:
        await used_in_every_way(office)
        lasting = {"user.registered", "client.created"}
        assert await told(office) == LOGIN_ACTIONS | lasting
        office.clock.advance(timedelta(days=90) - timedelta(seconds=1))
        while await office.identity.sessions.sweep():
            pass
        assert await told(office) == LOGIN_ACTIONS | lasting
        office.clock.advance(timedelta(seconds=1))
        sweeps = 1
        while await office.identity.sessions.sweep(most=5):
            sweeps += 1
        assert await told(office) == lasting
        assert sweeps == 3

    play(scene)


def test_nothing_of_logins_is_left_when_all_their_tokens_have_ended(play: Play) -> None:
    async def scene(office: Office) -> None:
        await used_in_every_way(office)
        left = ("grants", "refresh_tokens", "codes", "sessions", "claimed", "pushed")
        office.clock.advance(timedelta(days=90, hours=1))
        while await office.identity.sessions.sweep(most=2):
            pass
        async with office.storage(reading=True) as uow:
            assert {name: len(list(getattr(uow._tables, name).items())) for name in left} == (
                dict.fromkeys(left, 0)
            )

    play(scene)


def test_a_refresh_token_that_was_used_is_known_for_as_long_as_its_login_may_live(
    play: Play,
) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        first = await office.login(client, secret)
        fields = {"grant_type": "refresh_token", "refresh_token": first.refresh_token or ""}
        newest = await office.identity.issuance.issue(Parameters(fields.items()), client)
        for _ in range(6):
            office.clock.advance(timedelta(days=13))
            await office.identity.sessions.sweep()
            again = {**fields, "refresh_token": newest.refresh_token or ""}
            newest = await office.identity.issuance.issue(Parameters(again.items()), client)
        with pytest.raises(OAuthError, match="invalid_grant"):
            await office.identity.issuance.issue(Parameters(fields.items()), client)
        assert "user.refresh_reused" in await office.actions("user", first.user.id)
        again = {**fields, "refresh_token": newest.refresh_token or ""}
        with pytest.raises(OAuthError, match="invalid_grant"):
            await office.identity.issuance.issue(Parameters(again.items()), client)

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
