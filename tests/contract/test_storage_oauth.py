"""Codes, refresh tokens, pushed requests, browser sessions, consents and logout notices."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from savannah.domain.clients import AuthMethod, ClientMetadata
from savannah.domain.identity import RefreshToken
from savannah.domain.oauth import (
    AuthorizationCode,
    BrowserSession,
    Consent,
    LogoutNotice,
    PushedRequest,
)

MINUTE = timedelta(minutes=1)


def code_of(grant, digest="a" * 64, **fields):
    values = {
        "digest": digest,
        "grant_id": grant.id,
        "client_id": grant.client_id,
        "redirect_uri": "https://till.example/back?x=1",
        "code_challenge": "c" * 43,
        "created_at": grant.created_at,
        "expires_at": grant.created_at + MINUTE,
    }
    return AuthorizationCode(**values | fields)


def session_of(make, user, **fields):
    values = {
        "id": make.id(),
        "digest": "d" * 64,
        "user_id": user.id,
        "auth_time": user.date_joined,
        "created_at": user.date_joined,
        "expires_at": user.date_joined + 60 * MINUTE,
    }
    return BrowserSession(**values | fields)


async def times_true(attempts):
    return sum(await asyncio.gather(*attempts))


# --- what a client and a grant hold for the provider ---------------------------------------------


async def test_what_a_client_registered_for_the_provider_is_kept(storage, make, keep):
    plain = make.client("plain")
    full = make.client(
        "full",
        metadata=ClientMetadata(
            token_endpoint_auth_method=AuthMethod.PRIVATE_KEY_JWT,
            jwks={"keys": [{"kty": "EC", "kid": "1"}]},
            post_logout_redirect_uris=("https://a.example/bye", "https://b.example/bye"),
            backchannel_logout_uri="https://a.example/logout",
            require_pkce=False,
            skip_consent=True,
            resource_server=True,
        ),
    )
    await keep(plain, full)
    async with storage() as uow:
        assert await uow.clients.find("plain") == plain
        assert await uow.clients.find("full") == full
        await uow.clients.save(replace(full, metadata=ClientMetadata()))
        await uow.commit()
    async with storage(reading=True) as uow:
        assert (await uow.clients.find("full")).metadata == ClientMetadata()


async def test_a_grant_keeps_what_its_tokens_say(storage, make, keep):
    at = make.customer().created_at
    grant = make.grant(
        user_id=make.id(),
        scopes=frozenset({"openid", "offline_access"}),
        resources=("https://a.example/api/", "https://b.example/"),
        session_id=make.id(),
        nonce="n-0S6_WzA2Mj",
        auth_time=at,
    )
    await keep(grant)
    async with storage(reading=True) as uow:
        assert await uow.grants.find(grant.id) == grant


async def test_the_end_of_a_session_spares_offline_grants_and_other_sessions(storage, make, keep):
    session, other = make.id(), make.id()
    online = make.grant(session_id=session, client_id="till")
    offline = make.grant(
        session_id=session, client_id="app", scopes=frozenset({"openid", "offline_access"})
    )
    elsewhere, door = make.grant(session_id=other), make.grant()
    await keep(online, offline, elsewhere, door)
    at = door.created_at + MINUTE
    async with storage() as uow:
        assert set(await uow.grants.clients_of_session(session)) == {"till", "app"}
        assert set(await uow.grants.clients_of_session(make.id())) == set()
        await uow.grants.revoke_of_session(session, at=at)
        await uow.commit()
    async with storage(reading=True) as uow:
        found = [await uow.grants.find(grant.id) for grant in (online, offline, elsewhere, door)]
        assert [grant.revoked_at for grant in found] == [at, None, None, None]


async def test_grants_of_a_client_are_revoked_for_one_person_or_for_all(storage, make, keep):
    john, jane = make.user("john"), make.user("jane")
    of_john, of_jane = (make.grant(user_id=user.id, client_id="app") for user in (john, jane))
    other = make.grant(user_id=john.id, client_id="till")
    await keep(john, jane, of_john, of_jane, other)
    at = other.created_at + MINUTE

    async def revoked():
        async with storage(reading=True) as uow:
            found = [await uow.grants.find(grant.id) for grant in (of_john, of_jane, other)]
            return [grant.revoked_at for grant in found]

    async with storage() as uow:
        await uow.grants.revoke_of_client("app", user_id=john.id, at=at)
        await uow.commit()
    assert await revoked() == [at, None, None]
    async with storage() as uow:
        await uow.grants.revoke_of_client("app", at=at + MINUTE)
        await uow.commit()
    assert await revoked() == [at, at + MINUTE, None]


# --- single use ----------------------------------------------------------------------------------


async def test_a_code_is_kept_as_given_and_used_once(storage, make, keep):
    grant = make.grant()
    await keep(grant)
    code, bare = code_of(grant), code_of(grant, "b" * 64, code_challenge=None)
    async with storage() as uow:
        await uow.handshakes.add_code(code)
        await uow.handshakes.add_code(bare)
        await uow.commit()
    at = grant.created_at + MINUTE / 2
    async with storage() as uow:
        assert await uow.handshakes.find_code(code.digest) == code
        assert await uow.handshakes.find_code(bare.digest) == bare
        assert await uow.handshakes.find_code("c" * 64) is None
        assert await uow.handshakes.consume_code(code.digest, at=at)
        assert not await uow.handshakes.consume_code(code.digest, at=at)
        assert not await uow.handshakes.consume_code("c" * 64, at=at)
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.handshakes.find_code(code.digest) == replace(code, consumed_at=at)


async def test_of_many_who_redeem_one_code_at_once_exactly_one_succeeds(storage, make, keep):
    grant = make.grant()
    await keep(grant)

    async def redeem(digest):
        async with storage() as uow:
            won = await uow.handshakes.consume_code(digest, at=grant.created_at)
            await uow.commit()
            return won

    for number in range(10):
        digest = f"{number:064}"
        async with storage() as uow:
            await uow.handshakes.add_code(code_of(grant, digest))
            await uow.commit()
        assert await times_true(redeem(digest) for _ in range(8)) == 1


async def test_of_many_who_refresh_at_once_exactly_one_succeeds(storage, make, keep):
    grant = make.grant()
    await keep(grant)
    at = grant.created_at

    async def refresh(digest, place):
        async with storage() as uow:
            won = await uow.grants.consume_refresh(digest, f"{digest[1:]}{place}", at=at)
            await uow.commit()
            return won

    for number in range(10):
        digest = f"{number:064}"
        token = RefreshToken(
            digest=digest, grant_id=grant.id, issued_at=at, expires_at=at + 30 * MINUTE
        )
        async with storage() as uow:
            await uow.grants.add_refresh(token)
            await uow.commit()
        assert await times_true(refresh(digest, place) for place in range(8)) == 1
        async with storage(reading=True) as uow:
            used = await uow.grants.find_refresh(digest)
        assert used.consumed_at == at
        assert used.successor[:-1] == digest[1:]
    async with storage() as uow:
        assert not await uow.grants.consume_refresh("f" * 64, "e" * 64, at=at)


async def test_a_use_that_is_rolled_back_did_not_happen(storage, make, keep):
    grant = make.grant()
    await keep(grant)
    async with storage() as uow:
        await uow.handshakes.add_code(code_of(grant))
        await uow.commit()
    async with storage() as uow:
        assert await uow.handshakes.consume_code("a" * 64, at=grant.created_at)
    async with storage() as uow:
        assert await uow.handshakes.consume_code("a" * 64, at=grant.created_at)


async def test_a_pushed_request_is_taken_once_and_by_its_client(storage, make):
    request = PushedRequest(
        digest="a" * 64,
        client_id="till",
        parameters=(("scope", "openid \u2603"), ("resource", "x"), ("resource", "y")),
        expires_at=make.customer().created_at,
    )
    async with storage() as uow:
        await uow.handshakes.push(request)
        await uow.commit()

    async def take(client_id="till"):
        async with storage() as uow:
            found = await uow.handshakes.take_pushed(request.digest, client_id)
            await uow.commit()
            return found

    assert await take("app") is None
    found = await asyncio.gather(*(take() for _ in range(8)))
    assert [each for each in found if each is not None] == [request]


async def test_an_id_is_claimed_once(storage, make):
    at = make.customer().created_at

    async def claim(digest):
        async with storage() as uow:
            won = await uow.handshakes.claim(digest, expires_at=at)
            await uow.commit()
            return won

    assert await times_true(claim("a" * 64) for _ in range(8)) == 1
    assert await claim("b" * 64)


async def test_what_is_over_is_forgotten(storage, make, keep):
    grant = make.grant()
    await keep(grant)
    now = grant.created_at + 10 * MINUTE
    async with storage() as uow:
        await uow.handshakes.add_code(code_of(grant, "a" * 64))
        await uow.handshakes.add_code(code_of(grant, "b" * 64, expires_at=now))
        for digest, until in (("a" * 64, now), ("b" * 64, now + MINUTE)):
            await uow.handshakes.claim(digest, expires_at=until)
            await uow.handshakes.push(
                PushedRequest(digest=digest, client_id="till", parameters=(), expires_at=until)
            )
        await uow.commit()
    async with storage() as uow:
        await uow.handshakes.forget(now=now, codes_before=now - MINUTE, most=9)
        await uow.commit()
    async with storage() as uow:
        assert await uow.handshakes.find_code("a" * 64) is None
        assert await uow.handshakes.find_code("b" * 64) is not None
        assert await uow.handshakes.claim("a" * 64, expires_at=now)
        assert not await uow.handshakes.claim("b" * 64, expires_at=now)
        assert await uow.handshakes.take_pushed("a" * 64, "till") is None
        assert await uow.handshakes.take_pushed("b" * 64, "till") is not None


# --- browser sessions and consents ---------------------------------------------------------------


async def test_a_session_is_found_by_its_cookie_renewed_and_ended_once(storage, make, keep):
    john = make.user("john")
    await keep(john)
    session = session_of(make, john)
    async with storage() as uow:
        await uow.sessions.add(session)
        await uow.commit()
    at = session.created_at + MINUTE
    renewed = replace(session, digest="e" * 64, auth_time=at, expires_at=at + MINUTE)
    async with storage() as uow:
        assert await uow.sessions.find(session.digest) == session
        for lock in (None, "share", "update"):
            assert await uow.sessions.get(session.id, lock=lock) == session
        assert await uow.sessions.get(make.id()) is None
        await uow.sessions.save(renewed)
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.sessions.find(session.digest) is None
        assert await uow.sessions.find(renewed.digest) == renewed

    async def end():
        async with storage() as uow:
            won = await uow.sessions.end(session.id, at=at)
            await uow.commit()
            return won

    assert await times_true(end() for _ in range(8)) == 1
    async with storage() as uow:
        assert not await uow.sessions.end(make.id(), at=at)
        assert (await uow.sessions.get(session.id)).ended_at == at


async def test_all_sessions_of_one_person_end_together_and_old_ones_are_forgotten(
    storage, make, keep
):
    john, jane = make.user("john"), make.user("jane")
    await keep(john, jane)
    at = jane.date_joined + MINUTE
    first = session_of(make, john, digest="a" * 64)
    gone = session_of(make, john, digest="b" * 64, ended_at=john.date_joined)
    other = session_of(make, jane, digest="c" * 64, expires_at=at)
    async with storage() as uow:
        for session in (first, gone, other):
            await uow.sessions.add(session)
        assert await uow.sessions.end_of_user(john.id, at=at) == [first.id]
        assert not await uow.sessions.end_of_user(make.id(), at=at)
        await uow.commit()
    async with storage() as uow:
        found = [await uow.sessions.get(session.id) for session in (first, gone, other)]
        assert [session.ended_at for session in found] == [at, john.date_joined, None]
        assert await uow.sessions.forget(before=at, most=9) == 1
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.sessions.get(other.id) is None
        assert await uow.sessions.get(first.id) is not None


async def test_a_consent_takes_the_place_of_the_former_one(storage, make):
    user, at = make.id(), make.customer().created_at
    first = Consent(
        user_id=user, client_id="app", scopes=frozenset({"openid", "email"}), given_at=at
    )
    async with storage() as uow:
        await uow.consents.put(first)
        await uow.commit()
    second = replace(first, scopes=frozenset({"openid"}), given_at=at + MINUTE)
    async with storage() as uow:
        assert await uow.consents.find(user, "app") == first
        assert await uow.consents.find(user, "till") is None
        assert await uow.consents.find(make.id(), "app") is None
        await uow.consents.put(second)
        await uow.commit()
    async with storage(reading=True) as uow:
        assert await uow.consents.find(user, "app") == second


async def test_consents_are_listed_and_each_is_withdrawn_once(storage, make):
    user, at = make.id(), make.customer().created_at
    till, app, other = (
        Consent(user_id=who, client_id=name, scopes=frozenset({"openid"}), given_at=at)
        for who, name in ((user, "till"), (user, "app"), (make.id(), "app"))
    )
    async with storage() as uow:
        for consent in (till, app, other):
            await uow.consents.put(consent)
        await uow.commit()
    async with storage(reading=True) as uow:
        assert list(await uow.consents.of_user(user)) == [app, till]
        assert not await uow.consents.of_user(make.id())

    async def withdraw():
        async with storage() as uow:
            won = await uow.consents.remove(user, "app")
            await uow.commit()
            return won

    assert await times_true(withdraw() for _ in range(8)) == 1
    async with storage(reading=True) as uow:
        assert list(await uow.consents.of_user(user)) == [till]
        assert await uow.consents.find(other.user_id, "app") == other


# --- logout notices ------------------------------------------------------------------------------


async def test_notices_are_leased_oldest_first_postponed_and_removed(storage, make):
    now = make.customer().created_at

    def notice(due_at):
        return LogoutNotice(
            id=make.id(),
            client_id="app",
            uri="https://app.example/logout",
            user_id=make.id(),
            session_id=make.id(),
            created_at=now,
            due_at=due_at,
        )

    second, first, future = notice(now), notice(now - MINUTE), notice(now + MINUTE)
    async with storage() as uow:
        for each in (second, first, future):
            await uow.logout_notices.add(each)
        await uow.commit()

    async def lease(at, most=10):
        async with storage() as uow:
            found = await uow.logout_notices.lease_due(now=at, until=at + MINUTE, most=most)
            await uow.commit()
            return list(found)

    assert await lease(now, most=1) == [first]
    assert await lease(now) == [second]
    assert await lease(now) == []
    async with storage() as uow:
        await uow.logout_notices.postpone(first.id, until=now + 5 * MINUTE)
        await uow.logout_notices.remove(second.id)
        await uow.commit()
    later = await lease(now + 10 * MINUTE)
    assert [(each.id, each.attempts) for each in later] == [(future.id, 0), (first.id, 1)]


async def test_of_many_who_lease_one_notice_exactly_one_gets_it(storage, make):
    now = make.customer().created_at
    async with storage() as uow:
        await uow.logout_notices.add(
            LogoutNotice(
                id=make.id(),
                client_id="app",
                uri="https://app.example/logout",
                user_id=make.id(),
                session_id=make.id(),
                created_at=now,
                due_at=now,
            )
        )
        await uow.commit()

    async def lease():
        async with storage() as uow:
            found = await uow.logout_notices.lease_due(now=now, until=now + MINUTE, most=5)
            await uow.commit()
            return len(found)

    assert await times_true(lease() for _ in range(8)) == 1
