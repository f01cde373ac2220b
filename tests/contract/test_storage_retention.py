"""What is kept for a time only: the oldest goes first, so much at once, and nothing else."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from datetime import timedelta

import pytest

from savannah.application.ports import IdempotencyRecordKey
from savannah.domain.events import LOGIN_ACTIONS
from savannah.domain.identity import RefreshToken, SigningKey
from savannah.domain.oauth import AuthorizationCode, BrowserSession, PushedRequest

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


class Kind(ABC):
    """Rows that are forgotten by one moment of theirs; `start` is before all of them."""

    def __init__(self, make) -> None:
        self.make = make
        self.start = make.customer().created_at

    @abstractmethod
    async def add(self, uow, at):
        """Store a row of that moment; what tells it."""

    @abstractmethod
    async def has(self, uow, row) -> bool:
        """Whether it is stored; what that writes is never committed."""

    @abstractmethod
    async def forget(self, uow, *, before, most) -> int: ...


class Reports(Kind):
    async def add(self, uow, at):
        report = self.make.report(f"p-{at}", received_at=at)
        assert await uow.notifications.keep_report(report, matched=at.minute % 2 == 0)
        return report

    async def has(self, uow, row):
        return not await uow.notifications.keep_report(row, matched=False)

    async def forget(self, uow, *, before, most):
        return await uow.notifications.forget_reports(before=before, most=most)


class Logins(Kind):
    """Of the same person, and of different ones."""

    def __init__(self, make) -> None:
        super().__init__(make)
        self.john = make.id()

    async def add(self, uow, at):
        event = self.make.event(
            "user",
            self.make.id() if at.minute % 2 else self.john,
            at=at,
            action=sorted(LOGIN_ACTIONS)[at.minute % len(LOGIN_ACTIONS)],
        )
        await uow.events.add(event)
        return event

    async def has(self, uow, row):
        return row in await uow.events.of(row.subject, row.subject_id)

    async def forget(self, uow, *, before, most):
        return await uow.events.forget_logins(before=before, most=most)


class Answers(Kind):
    async def add(self, uow, at):
        key = IdempotencyRecordKey("user:till", "POST /api/orders/", str(at))
        assert await uow.idempotency.begin(key, "f", now=self.start) is None
        await uow.idempotency.finish(key, "f", b"answer", expires_at=at)
        return key

    async def has(self, uow, row):
        return await uow.idempotency.begin(row, "f", now=self.start) == b"answer"

    async def forget(self, uow, *, before, most):
        return await uow.idempotency.forget_expired(now=before, most=most)


class Codes(Kind):
    async def add(self, uow, at):
        grant = self.make.grant()
        code = AuthorizationCode(
            digest=str(at),
            grant_id=grant.id,
            client_id="till",
            redirect_uri="https://till.example/back",
            code_challenge=None,
            created_at=self.start,
            expires_at=at,
        )
        await uow.grants.add(grant)
        await uow.handshakes.add_code(code)
        return code.digest

    async def has(self, uow, row):
        return await uow.handshakes.find_code(row) is not None

    async def forget(self, uow, *, before, most):
        return await uow.handshakes.forget(now=self.start, codes_before=before, most=most)


class Pushed(Kind):
    async def add(self, uow, at):
        request = PushedRequest(digest=str(at), client_id="till", parameters=(), expires_at=at)
        await uow.handshakes.push(request)
        return request.digest

    async def has(self, uow, row):
        return await uow.handshakes.take_pushed(row, "till") is not None

    async def forget(self, uow, *, before, most):
        return await uow.handshakes.forget(now=before, codes_before=self.start, most=most)


class Claimed(Kind):
    async def add(self, uow, at):
        assert await uow.handshakes.claim(str(at), expires_at=at)
        return str(at)

    async def has(self, uow, row):
        return not await uow.handshakes.claim(row, expires_at=self.start)

    async def forget(self, uow, *, before, most):
        return await uow.handshakes.forget(now=before, codes_before=self.start, most=most)


class Sessions(Kind):
    async def add(self, uow, at):
        session = BrowserSession(
            id=self.make.id(),
            digest=str(at),
            user_id=self.make.id(),
            auth_time=self.start,
            created_at=self.start,
            expires_at=at,
        )
        await uow.sessions.add(session)
        return session.id

    async def has(self, uow, row):
        return await uow.sessions.get(row) is not None

    async def forget(self, uow, *, before, most):
        return await uow.sessions.forget(before=before, most=most)


class Grants(Kind):
    async def add(self, uow, at):
        grant = self.make.grant(created_at=at)
        await uow.grants.add(grant)
        return grant.id

    async def has(self, uow, row):
        return await uow.grants.find(row) is not None

    async def forget(self, uow, *, before, most):
        return await uow.grants.forget(before=before, most=most)


@pytest.fixture(params=Kind.__subclasses__(), ids=lambda kind: kind.__name__.lower())
def kind(request, make):
    return request.param(make)


@pytest.fixture
def filled(runner, storage, kind):
    """The rows of some minutes, by minute; the oldest is not stored first."""

    async def fill():
        async with storage() as uow:
            rows = {at: await kind.add(uow, kind.start + at * MINUTE) for at in (3, 1, 5, 2, 4, 6)}
            await uow.commit()
        return rows

    return runner.run(fill())


async def left(storage, kind, filled):
    async with storage() as uow:
        return {at for at, row in filled.items() if await kind.has(uow, row)}


async def test_the_oldest_go_first_so_many_at_once_and_the_young_stay(storage, kind, filled):
    before = kind.start + 5 * MINUTE
    for gone, expected in ((2, {3, 4, 5, 6}), (2, {5, 6}), (1, {6}), (0, {6})):
        async with storage() as uow:
            assert await kind.forget(uow, before=before, most=2) == gone
            await uow.commit()
        assert await left(storage, kind, filled) == expected


async def test_what_is_not_committed_is_not_forgotten(storage, kind, filled):
    async with storage() as uow:
        assert await kind.forget(uow, before=kind.start + DAY, most=4) == 4
    assert await left(storage, kind, filled) == {*filled}


async def test_several_at_once_forget_each_row_once(storage, kind, filled):
    async def forget():
        async with storage() as uow:
            gone = await kind.forget(uow, before=kind.start + 5 * MINUTE, most=2)
            await uow.commit()
            return gone

    gone = sum(await asyncio.gather(*(forget() for _ in range(6))))
    assert len(await left(storage, kind, filled)) == len(filled) - gone
    assert 2 <= gone <= 5
    while more := await forget():
        gone += more
    assert (gone, await left(storage, kind, filled)) == (5, {6})


async def test_of_the_audit_log_only_logins_go(storage, make, keep):
    john, till = make.id(), make.id()
    lasting = [
        make.event(subject, subject_id, action=f"{subject}.{what}")
        for subject, subject_id in (("user", john), ("client", till), ("order", till))
        for what in ("created", "role_changed", "consented", "logged", "updated")
    ]
    passing = [
        make.event(
            action.partition(".")[0], john if action.startswith("user") else till, action=action
        )
        for action in sorted(LOGIN_ACTIONS)
    ]
    await keep(*lasting, *passing)
    async with storage() as uow:
        before = passing[-1].at + DAY
        assert await uow.events.forget_logins(before=before, most=100) == len(passing)
        await uow.commit()
    async with storage(reading=True) as uow:
        found = [
            event
            for subject, subject_id in (("user", john), ("client", till), ("order", till))
            for event in await uow.events.of(subject, subject_id)
        ]
    assert found == lasting


async def test_grants_that_are_over_go_with_their_tokens_and_not_before_them(storage, make, keep):
    bare, refreshed, coded = (make.grant() for _ in range(3))
    before = coded.created_at
    young = make.grant()
    await keep(bare, refreshed, coded, young)

    async def refresh(grant, *digests):
        async with storage() as uow:
            for digest in digests:
                await uow.grants.add_refresh(
                    RefreshToken(
                        digest=digest,
                        grant_id=grant.id,
                        issued_at=grant.created_at,
                        expires_at=grant.created_at + MINUTE,
                    )
                )
            await uow.commit()

    async def forget(most):
        async with storage() as uow:
            gone = await uow.grants.forget(before=before, most=most)
            await uow.commit()
        async with storage(reading=True) as uow:
            grants = [await uow.grants.find(each.id) is not None for each in everybody]
            tokens = [await uow.grants.find_refresh(each) is not None for each in "abcd"]
        return gone, grants, tokens

    everybody = (bare, refreshed, coded, young)
    await refresh(refreshed, "a", "b", "c")
    await refresh(young, "d")
    async with storage() as uow:
        await uow.handshakes.add_code(
            AuthorizationCode(
                digest="a",
                grant_id=coded.id,
                client_id="till",
                redirect_uri="https://till.example/back",
                code_challenge=None,
                created_at=before,
                expires_at=before,
            )
        )
        await uow.commit()
    assert await forget(2) == (3, [False, True, True, True], [False, False, True, True])
    assert await forget(2) == (2, [False, False, True, True], [False, False, False, True])
    assert await forget(2) == (0, [False, False, True, True], [False, False, False, True])
    async with storage() as uow:
        assert await uow.handshakes.forget(now=before, codes_before=before, most=2) == 1
        await uow.commit()
    assert await forget(2) == (1, [False, False, False, True], [False, False, False, True])


async def test_old_signing_keys_go_and_those_that_sign_or_wait_stay(storage, make):
    at = make.customer().created_at
    keys = {
        "waits": {},
        "signs": {"activated_at": at},
        "retired": {"activated_at": at, "retired_at": at},
        "retired-later": {"activated_at": at, "retired_at": at + MINUTE},
        "revoked": {"activated_at": at, "revoked_at": at},
        "revoked-later": {"activated_at": at, "revoked_at": at + MINUTE},
    }
    async with storage() as uow:
        for kid, moments in keys.items():
            await uow.signing_keys.add(
                SigningKey(kid=kid, algorithm="RS256", sealed=b"k", created_at=at, **moments)
            )
        await uow.commit()
    for before, gone in ((at - MINUTE, set()), (at, {"retired", "revoked"})):
        async with storage() as uow:
            await uow.signing_keys.forget(before=before)
            await uow.commit()
        async with storage(reading=True) as uow:
            assert {key.kid for key in await uow.signing_keys.list()} == {*keys} - gone
