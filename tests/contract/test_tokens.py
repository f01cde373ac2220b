"""What every maker of tokens does: sign, read back its own, refuse all others, share its keys."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.jwk import RSAKey

from savannah.adapters.memory import ManualClock, MemoryStorage, MemoryUnitOfWork
from savannah.adapters.tokens import JoseTokens
from savannah.application.ports import AccessClaims, IdClaims
from savannah.domain.errors import InvalidToken, NotFound, TokenExpired, Unavailable
from savannah.domain.identity import GrantId, SigningKey

T = TypeVar("T")

ISSUER = "http://localhost:8000"
START = datetime(2026, 11, 23, 9, tzinfo=UTC)
CLAIMS = AccessClaims(
    subject="0199f39f-aaaa-7bbb-8ccc-ddddeeeeffff",
    client_id="till",
    grant_id=GrantId(UUID(int=1)),
    scopes=frozenset({"openid", "orders:read"}),
    role="staff",
    token_id=UUID(int=2),
    issued_at=START,
    expires_at=START + timedelta(hours=1),
    auth_time=START,
)
SAID = {
    "iss": ISSUER,
    "sub": CLAIMS.subject,
    "aud": "savannah",
    "client_id": "till",
    "sid": str(UUID(int=1)),
    "jti": str(UUID(int=2)),
    "iat": int(START.timestamp()),
    "exp": int(START.timestamp()) + 3600,
    "scope": "openid orders:read",
    "roles": ["staff"],
    "auth_time": int(START.timestamp()),
}


class CountedStorage(MemoryStorage):
    """Knows how often it was opened, can be out of order, and can be restored from another."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0
        self.down = False
        self.restored: CountedStorage | None = None

    def __call__(self, *, reading: bool = False) -> MemoryUnitOfWork:
        if self.down:
            raise Unavailable
        if self.restored is not None:
            return self.restored(reading=reading)
        self.opened += 1
        return super().__call__(reading=reading)


class Realm:
    """One storage and one clock, which several processes share."""

    def __init__(self, *keys: SigningKey) -> None:
        self.storage = CountedStorage()
        self.clock = ManualClock(START)
        self._keys = keys

    async def process(
        self,
        *,
        secret_key: str = "a secret for tests",
        issuer: str | Callable[[], str] = ISSUER,
        audience: str = "savannah",
    ) -> JoseTokens:
        async with self.storage() as uow:
            for key in self._keys:
                await uow.signing_keys.add(key)
            await uow.commit()
        self._keys = ()
        return JoseTokens(
            storage=self.storage,
            clock=self.clock,
            secret_key=secret_key,
            issuer=issuer,
            audience=audience,
        )

    async def keys(self) -> list[SigningKey]:
        async with self.storage(reading=True) as uow:
            return list(await uow.signing_keys.list())


def run(awaited: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(awaited)


@pytest.fixture(scope="module")
def key() -> SigningKey:
    """One key pair for every test: making one takes a tenth of a second."""

    async def make() -> SigningKey:
        realm = Realm()
        await (await realm.process()).rotate()
        return (await realm.keys())[0]

    return run(make())


@pytest.fixture
def realm(key: SigningKey) -> Realm:
    return Realm(key)


def header_of(token: str) -> dict[str, Any]:
    return dict(jws.extract_compact(token.encode()).headers())


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(jws.extract_compact(token.encode()).payload)
    return claims


def signing_key_of(tokens: JoseTokens) -> RSAKey:
    ring = tokens._ring
    assert ring is not None
    return ring.keys[ring.newest]


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


# --- what a token says ----------------------------------------------------------------------------


def test_an_access_token_reads_back_as_it_was_signed(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        for claims in (CLAIMS, replace(CLAIMS, role=None, auth_time=None, scopes=frozenset())):
            assert await tokens.read_access(await tokens.sign_access(claims)) == claims

    run(scene())


def test_an_access_token_has_the_profile_of_rfc_9068(realm: Realm) -> None:
    async def scene() -> None:
        token = await (await realm.process()).sign_access(CLAIMS)
        [key] = await realm.keys()
        assert header_of(token) == {"alg": "RS256", "typ": "at+jwt", "kid": key.kid}
        assert claims_of(token) == SAID

    run(scene())


def test_a_token_never_outlives_its_time_by_a_fraction_of_a_second(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        part = timedelta(milliseconds=900)
        late = replace(CLAIMS, issued_at=START + part, expires_at=CLAIMS.expires_at + part)
        read = await tokens.read_access(await tokens.sign_access(late))
        assert (read.issued_at, read.expires_at) == (CLAIMS.issued_at, CLAIMS.expires_at)

    run(scene())


def test_an_id_token_is_for_the_app_and_bound_to_its_access_token(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        access = await tokens.sign_access(CLAIMS)
        claims = IdClaims(
            subject=CLAIMS.subject,
            client_id="till",
            session_id=CLAIMS.grant_id,
            issued_at=START,
            expires_at=CLAIMS.expires_at,
            auth_time=START,
            access_token=access,
            nonce="n-0S6_WzA2Mj",
        )
        token = await tokens.sign_id(claims)
        assert header_of(token)["typ"] == "JWT"
        assert claims_of(token) == {
            "iss": ISSUER,
            "sub": CLAIMS.subject,
            "aud": "till",
            "sid": str(UUID(int=1)),
            "iat": SAID["iat"],
            "exp": SAID["exp"],
            "auth_time": SAID["iat"],
            "nonce": "n-0S6_WzA2Mj",
            "at_hash": encoded(hashlib.sha256(access.encode()).digest()[:16]),
        }
        assert "nonce" not in claims_of(await tokens.sign_id(replace(claims, nonce=None)))
        with pytest.raises(InvalidToken):
            await tokens.read_access(token)

    run(scene())


def test_an_id_token_is_no_access_token_even_for_an_app_named_like_the_api(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process(audience="till")
        access = await tokens.sign_access(CLAIMS)
        token = await tokens.sign_id(
            IdClaims(
                subject=CLAIMS.subject,
                client_id="till",
                session_id=CLAIMS.grant_id,
                issued_at=START,
                expires_at=CLAIMS.expires_at,
                auth_time=START,
                access_token=access,
            )
        )
        with pytest.raises(InvalidToken):
            await tokens.read_access(token)

    run(scene())


def test_a_token_ends_on_the_second_and_gets_no_leeway(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        token = await tokens.sign_access(CLAIMS)
        realm.clock.advance(timedelta(seconds=3599, milliseconds=999))
        await tokens.read_access(token)
        realm.clock.advance(timedelta(milliseconds=1))
        with pytest.raises(TokenExpired):
            await tokens.read_access(token)

    run(scene())


def test_the_issuer_may_be_known_late(realm: Realm) -> None:
    async def scene() -> None:
        port: list[int] = []
        tokens = await realm.process(issuer=lambda: f"http://localhost:{port[0]}")
        port.append(8000)
        assert claims_of(await tokens.sign_access(CLAIMS))["iss"] == ISSUER

    run(scene())


# --- what is no token of ours ---------------------------------------------------------------------


async def refused(tokens: JoseTokens, token: str) -> None:
    with pytest.raises(InvalidToken):
        await tokens.read_access(token)


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "http://localhost:8000/"},
        {"iss": None},
        {"aud": "other"},
        {"aud": ["savannah"]},
        {"aud": None},
        {"exp": None},
        {"exp": SAID["exp"] + 0.5},  # type: ignore[operator]  # the value above is an int
        {"exp": str(SAID["exp"])},
        {"exp": True},
        {"exp": 10**20},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"iat": None},
        {"sub": None},
        {"sub": 7},
        {"client_id": None},
        {"client_id": ["till"]},
        {"sid": None},
        {"sid": "1"},
        {"sid": 1},
        {"jti": None},
        {"jti": "x"},
        {"scope": None},
        {"scope": ["orders:read"]},
        {"roles": []},
        {"roles": None},
        {"auth_time": "now"},
        {"cnf": {"jkt": 7}},
        {"cnf": {"jkt": "x", "x5t#S256": "y"}},
        {"cnf": {}},
        {"cnf": None},
    ],
)
def test_a_token_with_our_signature_and_an_odd_claim_is_refused(
    realm: Realm, change: dict[str, Any]
) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        own = await tokens.sign_access(CLAIMS)
        header, signer = header_of(own), signing_key_of(tokens)
        assert await tokens.read_access(jwt.encode(header, SAID, signer)) == CLAIMS
        odd = {**SAID, **change}
        await refused(tokens, jwt.encode(header, odd, signer))
        [name] = change
        if name in SAID and name not in ("roles", "auth_time"):
            missing = {key: value for key, value in SAID.items() if key != name}
            await refused(tokens, jwt.encode(header, missing, signer))

    run(scene())


@pytest.mark.parametrize(
    "change",
    [
        {"typ": "JWT"},
        {"typ": None},
        {"typ": 5},
        {"typ": "logout+jwt"},
        {"kid": None},
        {"kid": "unknown"},
        {"kid": ["x"]},
        {"kid": "\ud800"},
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": False},
        {"jku": "http://evil.example/keys", "extra": 1},
    ],
)
def test_a_token_with_our_signature_and_an_odd_header_is_refused(
    realm: Realm, change: dict[str, Any]
) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        header = header_of(await tokens.sign_access(CLAIMS))
        changed = {key: value for key, value in {**header, **change}.items() if value is not None}
        signed = f"{encoded(json.dumps(changed).encode())}.{encoded(json.dumps(SAID).encode())}"
        algorithm = jws.JWSRegistry.algorithms["RS256"]
        signature = algorithm.sign(signed.encode(), signing_key_of(tokens))
        await refused(tokens, f"{signed}.{encoded(signature)}")

    run(scene())


def test_other_algorithms_and_other_keys_are_refused(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        token = await tokens.sign_access(CLAIMS)
        header, own = header_of(token), signing_key_of(tokens)
        payload = json.dumps(SAID).encode()
        unsigned = encoded(json.dumps({**header, "alg": "none"}).encode())
        await refused(tokens, f"{unsigned}.{encoded(payload)}.")
        signed = f"{encoded(json.dumps({**header, 'alg': 'HS256'}).encode())}.{encoded(payload)}"
        public = own.as_pem(private=False)
        await refused(tokens, f"{signed}.{encoded(hmac.digest(public, signed.encode(), 'sha256'))}")
        stranger = RSAKey.generate_key(2048)
        await refused(tokens, jwt.encode(header, SAID, stranger))
        free = RSAKey.import_key({**own.as_dict(private=True), "alg": "PS256"})
        await refused(
            tokens, jwt.encode({**header, "alg": "PS256"}, SAID, free, algorithms=["PS256"])
        )

    run(scene())


def test_a_token_with_one_changed_symbol_is_refused(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        token = await tokens.sign_access(CLAIMS)
        for place in range(0, len(token) - 1, 37):
            symbol = "A" if token[place] != "A" else "B"
            await refused(tokens, f"{token[:place]}{symbol}{token[place + 1 :]}")
        for other in (token + "=", token + ".", token[:-4], token.upper(), f" {token}"):
            await refused(tokens, other)

    run(scene())


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "your-access-token",
        "rt_" + "x" * 43,
        "caf\u00e9.caf\u00e9.caf\u00e9",
        "\ud800.\ud800.\ud800",
        "a" * 1_000_000,
        "e30.e30.e30",
    ],
)
def test_what_does_not_look_like_a_token_is_refused(realm: Realm, text: str) -> None:
    async def scene() -> None:
        await refused(await realm.process(), text)

    run(scene())


def test_nesting_without_end_is_refused(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        header = header_of(await tokens.sign_access(CLAIMS))
        deep = jws.serialize_compact(header, b"[" * 5000, signing_key_of(tokens))
        await refused(tokens, deep)

    run(scene())


@pytest.fixture(scope="module")
def reader(key: SigningKey) -> JoseTokens:
    return run(Realm(key).process())


@settings(deadline=None)
@given(parts=st.lists(st.binary(max_size=60) | st.text(max_size=20), max_size=5))
def test_no_text_whatever_raises_anything_else(
    reader: JoseTokens, parts: list[bytes | str]
) -> None:
    run(
        refused(
            reader,
            ".".join(part if isinstance(part, str) else encoded(part) for part in parts),
        )
    )


# --- keys -----------------------------------------------------------------------------------------


def test_the_first_key_is_made_when_it_is_needed() -> None:
    async def scene() -> None:
        realm = Realm()
        tokens = await realm.process()
        assert await tokens.read_access(await tokens.sign_access(CLAIMS)) == CLAIMS
        [key] = await realm.keys()
        assert key.algorithm == "RS256"
        assert key.created_at == START

    run(scene())


def test_processes_that_begin_at_once_understand_each_other() -> None:
    async def scene() -> None:
        realm = Realm()
        processes = [await realm.process() for _ in range(2)]
        signed = await asyncio.gather(
            *(process.sign_access(CLAIMS) for process in processes for _ in range(3))
        )
        assert 1 <= len(await realm.keys()) <= 2
        for process in processes:
            for token in signed:
                assert await process.read_access(token) == CLAIMS

    run(scene())


def test_the_private_half_is_sealed(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        await tokens.sign_access(CLAIMS)
        [key] = await realm.keys()
        private = signing_key_of(tokens).as_dict(private=True)
        for name in ("d", "p", "q", "n"):
            assert str(private[name]).encode() not in key.sealed

    run(scene())


def test_a_rotated_key_signs_at_once_here_and_within_half_a_minute_elsewhere(realm: Realm) -> None:
    async def scene() -> None:
        here, there = await realm.process(), await realm.process()
        before = await here.sign_access(CLAIMS)
        await there.read_access(before)
        kid = await here.rotate()
        after = await here.sign_access(CLAIMS)
        assert header_of(after)["kid"] == kid != header_of(before)["kid"]
        for process in (here, there):
            for token in (before, after):
                assert await process.read_access(token) == CLAIMS
        late = await realm.process()
        assert header_of(await late.sign_access(CLAIMS))["kid"] == kid

    run(scene())


def test_a_process_that_meets_no_new_token_signs_with_the_new_key_half_a_minute_later(
    realm: Realm,
) -> None:
    async def scene() -> None:
        here, there = await realm.process(), await realm.process()
        old = header_of(await there.sign_access(CLAIMS))["kid"]
        kid = await here.rotate()
        realm.clock.advance(timedelta(seconds=29))
        assert header_of(await there.sign_access(CLAIMS))["kid"] == old
        realm.clock.advance(timedelta(seconds=1))
        assert header_of(await there.sign_access(CLAIMS))["kid"] == kid

    run(scene())


def test_a_new_key_is_the_newest_even_when_the_clock_went_back(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        realm.clock.set(START - timedelta(days=1))
        kid = await tokens.rotate()
        assert header_of(await tokens.sign_access(CLAIMS))["kid"] == kid

    run(scene())


def test_the_next_key_is_published_before_it_signs_and_the_former_one_goes_on_for_a_while(
    realm: Realm,
) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        await tokens.prepare()
        await tokens.prepare()
        published = {key["kid"] for key in await tokens.public_keys()}
        before = await tokens.sign_access(CLAIMS)
        assert len(published) == 2
        kid = await tokens.rotate()
        assert kid in published - {header_of(before)["kid"]}
        assert header_of(await tokens.sign_access(CLAIMS))["kid"] == kid
        assert {key["kid"] for key in await tokens.public_keys()} == published
        hint = await tokens.sign_id(
            IdClaims(
                subject=CLAIMS.subject,
                client_id="till",
                session_id=CLAIMS.grant_id,
                issued_at=START,
                expires_at=CLAIMS.expires_at,
                auth_time=START,
                access_token="x",
            )
        )
        await tokens.rotate()
        realm.clock.advance(timedelta(hours=2) - timedelta(seconds=1))
        other = await realm.process()
        with pytest.raises(TokenExpired):  # the token is old; its key is still good
            await other.read_access(before)
        realm.clock.advance(timedelta(seconds=1))
        await refused(await realm.process(), before)
        assert (await (await realm.process()).read_hint(hint)).subject == CLAIMS.subject

    run(scene())


def test_old_keys_are_deleted_when_no_hint_can_come_back_any_more(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        await tokens.prepare()
        hint = await tokens.sign_id(
            IdClaims(
                subject=CLAIMS.subject,
                client_id="till",
                session_id=CLAIMS.grant_id,
                issued_at=START,
                expires_at=CLAIMS.expires_at,
                auth_time=START,
                access_token="x",
            )
        )
        await tokens.rotate()
        await tokens.prepare()
        signs, waits = {key.kid for key in await realm.keys()} - {header_of(hint)["kid"]}
        realm.clock.advance(timedelta(days=365, hours=2) - timedelta(seconds=1))
        await tokens.prepare()
        assert (await (await realm.process()).read_hint(hint)).subject == CLAIMS.subject
        realm.clock.advance(timedelta(seconds=1))
        await tokens.prepare()
        with pytest.raises(InvalidToken):
            await tokens.read_hint(hint)
        assert {key.kid for key in await realm.keys()} == {signs, waits}
        stolen = header_of(await tokens.sign_access(CLAIMS))["kid"]
        await tokens.revoke(stolen)
        realm.clock.advance(timedelta(days=366))
        await tokens.prepare()
        assert stolen not in {key.kid for key in await realm.keys()}

    run(scene())


def test_a_waiting_key_signs_when_the_one_that_did_is_revoked(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        await tokens.prepare()
        token = await tokens.sign_access(CLAIMS)
        stolen = header_of(token)["kid"]
        await tokens.revoke(stolen)
        await refused(tokens, token)
        assert header_of(await tokens.sign_access(CLAIMS))["kid"] != stolen
        assert len(await realm.keys()) == 2
        with pytest.raises(NotFound):
            await tokens.revoke(stolen)

    run(scene())


def test_a_revoked_key_neither_signs_nor_verifies(key: SigningKey) -> None:
    async def scene() -> None:
        realm = Realm(key)
        token = await (await realm.process()).sign_access(CLAIMS)
        emergency = Realm(replace(key, revoked_at=START))
        tokens = await emergency.process()
        await refused(tokens, token)
        assert header_of(await tokens.sign_access(CLAIMS))["kid"] != key.kid

    run(scene())


def test_a_token_that_was_read_before_is_refused_once_its_key_is_revoked(key: SigningKey) -> None:
    async def scene() -> None:
        realm, emergency = Realm(key), Realm(replace(key, revoked_at=START))
        await emergency.process()
        tokens = await realm.process()
        token = await tokens.sign_access(CLAIMS)
        await tokens.read_access(token)
        realm.storage.restored = emergency.storage
        realm.clock.advance(timedelta(seconds=30))
        await refused(tokens, token)

    run(scene())


def test_many_tokens_are_read_with_one_look_at_the_keys(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        token = await tokens.sign_access(CLAIMS)
        opened = realm.storage.opened
        for _ in range(20):
            await tokens.read_access(token)
        assert realm.storage.opened == opened
        realm.clock.advance(timedelta(seconds=30))
        await asyncio.gather(*(tokens.read_access(token) for _ in range(20)))
        assert realm.storage.opened == opened + 1

    run(scene())


def test_invented_key_names_do_not_make_us_look_again_and_again(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        header = header_of(await tokens.sign_access(CLAIMS))
        opened = realm.storage.opened
        signer = signing_key_of(tokens)
        invented = [jwt.encode({**header, "kid": f"k{n}"}, SAID, signer) for n in range(9)]
        for token in invented:
            await refused(tokens, token)
        await asyncio.gather(*(refused(tokens, token) for token in invented))
        assert realm.storage.opened == opened + 1
        realm.clock.advance(timedelta(seconds=2))
        for token in invented:
            await refused(tokens, token)
        assert realm.storage.opened == opened + 2

    run(scene())


def test_tokens_of_a_new_key_that_come_at_once_are_all_read_with_one_look(realm: Realm) -> None:
    async def scene() -> None:
        here, there = await realm.process(), await realm.process()
        await there.sign_access(CLAIMS)
        await here.rotate()
        token = await here.sign_access(CLAIMS)
        opened = realm.storage.opened
        read = await asyncio.gather(*(there.read_access(token) for _ in range(10)))
        assert read == [CLAIMS] * 10
        assert realm.storage.opened == opened + 1

    run(scene())


def test_another_secret_makes_another_key_and_says_so(
    realm: Realm, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        before = await realm.process()
        token = await before.sign_access(CLAIMS)
        with caplog.at_level(logging.WARNING, logger="savannah.tokens"):
            after = await realm.process(secret_key="another secret")
            await refused(after, token)
            assert await after.read_access(await after.sign_access(CLAIMS)) == CLAIMS
            realm.clock.advance(timedelta(minutes=1))
            await after.sign_access(CLAIMS)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "SECRET_KEY" in caplog.text
        assert len(await realm.keys()) == 2

    run(scene())


def test_a_key_stored_under_another_name_is_not_believed(key: SigningKey) -> None:
    async def scene() -> None:
        realm = Realm(replace(key, kid="renamed"), replace(key, kid="cut", sealed=b"short"))
        tokens = await realm.process()
        assert header_of(await tokens.sign_access(CLAIMS))["kid"] not in ("renamed", "cut", key.kid)

    run(scene())


def test_storage_that_cannot_answer_is_not_a_wrong_token(realm: Realm) -> None:
    async def scene() -> None:
        tokens = await realm.process()
        realm.storage.down = True
        with pytest.raises(Unavailable):
            await tokens.read_access("your-access-token")
        realm.storage.down = False
        token = await tokens.sign_access(CLAIMS)
        realm.storage.down = True
        assert await tokens.read_access(token) == CLAIMS

    run(scene())


def test_one_maker_of_tokens_serves_one_event_loop_after_another(realm: Realm) -> None:
    tokens = run(realm.process())

    async def busy() -> None:
        realm.clock.advance(timedelta(minutes=1))
        await asyncio.gather(*(tokens.rotate() for _ in range(2)))

    run(busy())
    run(busy())
