"""Access tokens of other issuers, from a real one on a socket: honest, hostile, slow and down."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from joserfc.jwk import ECKey, OctKey

from fake_issuer import (
    AUDIENCE,
    DISCOVERY,
    JWKS,
    FakeIssuer,
    ec_key,
    encoded,
    public,
    rsa_key,
    signed,
)
from savannah.adapters.memory import ManualClock, MemoryStorage
from savannah.adapters.tokens import JoseTokens
from savannah.adapters.trusted_issuers import JwksIssuers
from savannah.application.ports import AccessClaims
from savannah.domain.access import Role
from savannah.domain.errors import InvalidToken, TokenExpired, Unavailable
from savannah.domain.identity import GrantId
from savannah.domain.trusted_issuers import ExternalIdentity, TrustedIssuer

START = datetime(2026, 11, 23, 9, tzinfo=UTC)


class House:
    """We, and the issuers we trust."""

    def __init__(self, *issuers: TrustedIssuer, loopback: bool = True) -> None:
        self.clock = ManualClock(START)
        self.issuers = JwksIssuers(issuers, clock=self.clock, loopback=loopback)

    async def read(self, token: str) -> ExternalIdentity | None:
        return await self.issuers.read(token)

    async def refuses(self, *tokens: str) -> None:
        for token in tokens:
            with pytest.raises(InvalidToken):
                await self.read(token)


@asynccontextmanager
async def house(*issuers: TrustedIssuer, **more: Any):
    opened = House(*issuers, **more)
    try:
        yield opened
    finally:
        await opened.issuers.aclose()


@pytest.fixture
def issuer() -> Iterator[FakeIssuer]:
    with FakeIssuer() as running:
        yield running


@pytest.fixture
def other() -> Iterator[FakeIssuer]:
    with FakeIssuer() as running:
        yield running


class Log(logging.Handler):
    """What was written down, with everything beside the message."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(str(vars(record)))


@pytest.fixture
def log() -> Iterator[Log]:
    logger, handler = logging.getLogger("savannah.issuers"), Log()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def trust(issuer: FakeIssuer, /, **more: Any) -> TrustedIssuer:
    rules = TrustedIssuer(
        issuer=issuer.url, audiences=frozenset({AUDIENCE}), roles={"desk": Role.STAFF}
    )
    return replace(rules, **more)


def said(issuer: FakeIssuer, /, **more: object) -> dict[str, object]:
    now = int(START.timestamp())
    claims = {
        "iss": issuer.url,
        "sub": "jane",
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 3600,
        "client_id": "till",
        "roles": ["desk"],
        "scope": "orders:read orders:write",
        **more,
    }
    return {name: value for name, value in claims.items() if value is not None}


async def until(seen: Callable[[], object]) -> None:
    """Let the loop run until that is true."""
    for _ in range(10_000):
        if seen():
            return
        await asyncio.sleep(0.001)
    raise AssertionError


# --- honest tokens --------------------------------------------------------------------------------


async def test_a_token_of_a_trusted_issuer_says_who_comes_and_what_they_may_do(issuer) -> None:
    async with house(trust(issuer)) as we:
        found = await we.read(issuer.token(said(issuer)))
        assert found is not None
        assert (found.issuer, found.subject, found.role) == (issuer.url, "jane", Role.STAFF)
        assert found.permissions == {"orders:read", "orders:write"}
        assert found.principal == f"external:{issuer.url}#jane"
        assert issuer.asked == {DISCOVERY: 1, JWKS: 1}


@pytest.mark.parametrize("alg", ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512"])
async def test_every_asymmetric_algorithm_works_where_it_was_allowed(issuer, alg) -> None:
    curve = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}.get(alg)
    key = ec_key(curve) if curve else rsa_key()
    issuer.keys = [public(key, alg=None)]
    token = issuer.token(said(issuer), key=key, alg=alg)
    async with house(trust(issuer, algorithms=(alg,))) as we:
        assert await we.read(token)
    async with house(trust(issuer, algorithms=("RS256" if alg != "RS256" else "ES256",))) as we:
        await we.refuses(token)
        assert issuer.fetches == 1  # the second time nobody was asked


async def test_keys_are_read_once_for_many_tokens(issuer) -> None:
    async with house(trust(issuer)) as we:
        tokens = [issuer.token(said(issuer, sub=f"user-{n}")) for n in range(20)]
        assert all(await asyncio.gather(*map(we.read, tokens)))
        assert issuer.fetches == 1


async def test_the_keys_may_be_named_in_the_settings_instead_of_discovered(issuer) -> None:
    rules = trust(issuer, issuer="https://id.example.com", jwks_uri=f"{issuer.url}{JWKS}")
    async with house(rules) as we:
        assert await we.read(issuer.token(said(issuer, iss="https://id.example.com")))
        assert issuer.asked == {JWKS: 1}


async def test_an_issuer_with_a_slash_at_its_end_has_its_document_where_others_do(issuer) -> None:
    issuer.document["issuer"] = f"{issuer.url}/"
    async with house(trust(issuer, issuer=f"{issuer.url}/")) as we:
        assert await we.read(issuer.token(said(issuer, iss=f"{issuer.url}/")))
        assert await we.read(issuer.token(said(issuer))) is None  # another name is another issuer


async def test_a_new_key_is_found_when_a_token_names_it(issuer) -> None:
    async with house(trust(issuer)) as we:
        assert await we.read(issuer.token(said(issuer)))
        issuer.keys = [public(rsa_key(1))]
        we.clock.advance(timedelta(seconds=31))
        assert await we.read(issuer.token(said(issuer), key=rsa_key(1)))
        assert issuer.fetches == 2
        # The old key is gone, and what it has verified before with it.
        await we.refuses(issuer.token(said(issuer)))


async def test_a_token_without_a_kid_has_a_key_only_where_there_is_no_choice(issuer) -> None:
    token = issuer.token(said(issuer), header={"kid": None})
    async with house(trust(issuer)) as we:
        assert await we.read(token)
    issuer.keys.append(public(rsa_key(1)))
    async with house(trust(issuer)) as we:
        await we.refuses(token)


async def test_long_headers_with_keys_of_their_own_are_not_looked_at(issuer) -> None:
    thief = rsa_key(2)
    header = {
        "jku": f"{issuer.url}/stolen",
        "x5u": f"{issuer.url}/stolen",
        "jwk": public(thief),
        "x5c": ["QUJD" * 300],
    }
    async with house(trust(issuer)) as we:
        assert await we.read(issuer.token(said(issuer), header=header))
        await we.refuses(
            issuer.token(said(issuer), key=thief, header=header),
            issuer.token(said(issuer), key=thief, header={**header, "kid": rsa_key().kid}),
        )
        assert set(issuer.asked) == {DISCOVERY, JWKS}


# --- hostile tokens -------------------------------------------------------------------------------


async def test_an_unknown_issuer_is_refused_before_anybody_is_asked(issuer, other) -> None:
    async with house(trust(issuer)) as we:
        for name in (other.url, f"{issuer.url}/", issuer.url.upper(), "", None, 7, [issuer.url]):
            assert await we.read(issuer.token(said(issuer, iss=name))) is None
        assert not issuer.asked
        assert not other.asked


async def test_a_token_that_cannot_count_asks_for_no_key(issuer) -> None:
    now = int(START.timestamp())
    bad = [
        said(issuer, aud="another"),
        said(issuer, aud=None),
        said(issuer, aud={"savannah": 1}),
        said(issuer, sub=None),
        said(issuer, sub=""),
        said(issuer, sub=7),
        said(issuer, exp=None),
        said(issuer, exp="2099-01-01"),
        said(issuer, exp=float("nan")),
        said(issuer, exp=float("inf")),
        said(issuer, exp=-1),
        said(issuer, exp=10**30),
        said(issuer, exp=True),
        said(issuer, nbf=now + 61),
        said(issuer, iat=now + 61),
        said(issuer, cnf={"jkt": "abc"}),
    ]
    async with house(trust(issuer)) as we:
        await we.refuses(*(issuer.token(claims) for claims in bad))
        for claims in (said(issuer, exp=now - 60), said(issuer, exp=1)):
            with pytest.raises(TokenExpired):
                await we.read(issuer.token(claims))
        assert not issuer.asked


async def test_clocks_may_differ_by_a_minute_and_no_more(issuer) -> None:
    now = int(START.timestamp())
    async with house(trust(issuer)) as we:
        assert await we.read(issuer.token(said(issuer, exp=now - 59)))
        assert await we.read(issuer.token(said(issuer, nbf=now + 60, iat=now + 60)))
        long = issuer.token(said(issuer))
        assert await we.read(long)
        we.clock.advance(timedelta(seconds=3659))
        assert await we.read(long)
        we.clock.advance(timedelta(seconds=1))
        with pytest.raises(TokenExpired):  # though its signature was verified before
            await we.read(long)


async def test_an_id_token_or_a_refresh_token_is_no_access_token(issuer) -> None:
    id_token = {"aud": AUDIENCE, "scope": None, "client_id": None, "azp": "till", "roles": None}
    async with house(trust(issuer, token_types=frozenset({"at+jwt", "jwt"}))) as we:
        jwt = {"typ": "JWT"}
        assert await we.read(issuer.token(said(issuer), header=jwt))
        assert await we.read(issuer.token(said(issuer), header={"typ": None}))
        await we.refuses(
            issuer.token(said(issuer, **id_token), header=jwt),
            issuer.token(said(issuer, at_hash="abc"), header=jwt),
            issuer.token(said(issuer, nonce="n-0S6"), header=jwt),
            issuer.token(said(issuer, typ="ID"), header=jwt),
            issuer.token(said(issuer, typ="Refresh"), header=jwt),
            issuer.token(said(issuer, token_use="id"), header=jwt),
            issuer.token(said(issuer, events={}), header=jwt),
            issuer.token(said(issuer), header={"typ": "logout+jwt"}),
        )
    async with house(trust(issuer)) as we:
        await we.refuses(
            issuer.token(said(issuer), header={"typ": "JWT"}),
            issuer.token(said(issuer), header={"typ": None}),
            issuer.token(said(issuer), header={"typ": 7}),
            issuer.token(said(issuer, typ="Refresh")),
        )
        assert await we.read(issuer.token(said(issuer), header={"typ": "application/AT+JWT"}))


async def test_no_signature_and_a_shared_secret_are_refused(issuer) -> None:
    claims = json.dumps(said(issuer)).encode()
    parts = {"typ": "at+jwt", "kid": rsa_key().kid}
    unsigned = [
        f"{encoded({**parts, 'alg': alg})}.{encoded(claims)}." for alg in ("none", "None", "")
    ]
    secrets = [rsa_key().as_pem(private=False), rsa_key().as_der(private=False)]
    confused = [
        signed({**parts, "alg": "HS256"}, claims, OctKey.import_key(encoded(secret)))
        for secret in secrets
    ]
    async with house(trust(issuer)) as we:
        await we.refuses(*unsigned, *confused)
        assert not issuer.asked


async def test_a_key_that_is_no_rsa_or_ec_key_never_counts(issuer) -> None:
    shared = OctKey.generate_key(256, {"kid": "shared"})
    issuer.keys = [shared.as_dict(private=True), public(rsa_key())]
    async with house(trust(issuer)) as we:
        await we.refuses(issuer.token(said(issuer), key=shared, alg="HS256"))
        await we.refuses(issuer.token(said(issuer), header={"kid": "shared"}))


async def test_a_signature_that_was_touched_or_is_anothers_is_refused(issuer, other) -> None:
    token = issuer.token(said(issuer))
    head, payload, signature = token.split(".")
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    admin = encoded(said(issuer, roles=["desk"], sub="boss"))
    stranger = issuer.token(said(issuer), key=rsa_key(2), header={"kid": rsa_key().kid})
    other.keys = [public(rsa_key(3))]
    mixed = issuer.token(said(issuer), key=rsa_key(3))  # names one issuer, signed by the other
    async with house(trust(issuer), trust(other)) as we:
        await we.refuses(
            f"{head}.{payload}.{flipped}",
            f"{head}.{admin}.{signature}",
            f"{head}.{payload}.{signature}=",
            f"{head}.{payload}.",
            stranger,
            mixed,
        )


async def test_tricks_with_the_kid_lead_nowhere(issuer, log) -> None:
    tricks = ["../../dev/null", "' OR 1=1 --", "\ud800", "a" * 4000, "\x00", "\r\nX: y", ""]
    async with house(trust(issuer)) as we:
        for kid in (*tricks, 7, [rsa_key().kid], {"a": 1}, True):
            await we.refuses(issuer.token(said(issuer), header={"kid": kid}))
        assert issuer.fetches == 1
        issuer.pages[JWKS] = (500, {}, b"")
        we.clock.advance(timedelta(minutes=1))
        await we.refuses(issuer.token(said(issuer), header={"kid": "' OR 1=1 --"}))
    assert len(log.lines) == 1
    assert "OR 1=1" not in log.lines[0]


async def test_members_that_must_be_understood_are_not(issuer) -> None:
    async with house(trust(issuer)) as we:
        await we.refuses(
            issuer.token(said(issuer), header={"crit": ["exp"], "exp": 1}),
            issuer.token(said(issuer), header={"crit": ["b64"], "b64": False}),
            issuer.token(said(issuer), header={"crit": []}),
        )


async def test_two_keys_with_one_kid_are_both_tried(issuer) -> None:
    same = {"kid": "same"}
    issuer.keys = [public(rsa_key(number), kid="same") for number in range(3)]
    async with house(trust(issuer)) as we:
        for number in range(3):
            assert await we.read(issuer.token(said(issuer), key=rsa_key(number), header=same))
        await we.refuses(issuer.token(said(issuer), key=rsa_key(4), header=same))


async def test_rubbish_is_refused_and_never_breaks_anything(issuer) -> None:
    head = {"alg": "RS256", "typ": "at+jwt", "kid": rsa_key().kid}
    deep = b'{"iss": "%s", "x": %s}' % (issuer.url.encode(), b"[" * 6000 + b"]" * 6000)
    nested = signed(head, deep, rsa_key())
    within = b'{"iss": "%s", "x": %s}' % (issuer.url.encode(), b"[" * 500 + b"]" * 500)
    huge = issuer.token(said(issuer, filler="x" * 20_000))
    named = [
        signed(head, within, rsa_key()),
        f"{encoded({**head, 'alg': ['RS256']})}.{encoded(said(issuer))}.AAAA",
        f"{encoded([1])}.{encoded(said(issuer))}.AAAA",
        f"{encoded(b'{')}.{encoded(said(issuer))}.AAAA",
        f"!!!!.{encoded(said(issuer))}.AAAA",
        f"{encoded({**head, 'x': 'y' * 9000})}.{encoded(said(issuer))}.AAAA",
    ]
    strange = [
        "",
        ".",
        "..",
        "a.b.c",
        "a.b.c.d.e",
        "é.é.é",
        "\ud800.\ud800.\ud800",
        f"{encoded(head)}.{encoded([issuer.url])}.x",
        f"{encoded(head)}.{encoded(b'nul')}.x",
        nested,
        huge,
    ]
    async with house(trust(issuer)) as we:
        await we.refuses(*named)
        for token in strange:
            with suppress(InvalidToken):
                assert await we.read(token) is None
        assert await we.read(issuer.token(said(issuer)))


# --- keys that are bad ----------------------------------------------------------------------------


async def test_one_bad_key_does_not_poison_the_set(issuer) -> None:
    good = public(rsa_key())
    small = public(rsa_key(9, bits=1024), kid="small")
    issuer.keys = [
        "no key",
        {},
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA", "kid": "curve"},
        {"kty": "RSA", "n": "AA==", "e": "AQAB", "kid": "padded"},
        {"kty": "RSA", "kid": "empty"},
        {"kty": 7},
        {**good, "kid": 7},
        {**good, "kid": "odd-use", "use": "enc"},
        {**good, "kid": "odd-ops", "key_ops": ["encrypt"]},
        {**good, "kid": "odd-ops-2", "key_ops": 7},
        {**good, "kid": "odd-alg", "alg": 7},
        {**good, "kid": "private", "d": "AQAB"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "okp"},
        small,
        {**good, "kid": "for-another", "issuer": "https://another.example.com"},
        good,
    ]
    async with house(trust(issuer)) as we:
        assert await we.read(issuer.token(said(issuer)))
        for kid in ("odd-use", "odd-ops", "odd-alg", "private", "for-another"):
            await we.refuses(issuer.token(said(issuer), header={"kid": kid}))
        small_token = issuer.token(said(issuer), key=rsa_key(9, bits=1024), header={"kid": "small"})
        await we.refuses(small_token)


async def test_a_key_is_used_only_for_the_algorithm_it_is_for(issuer) -> None:
    curve = ECKey.generate_key("P-384", {"kid": "curve"})
    issuer.keys = [public(rsa_key()), public(curve)]
    rules = trust(issuer, algorithms=("RS256", "RS512", "ES256", "ES384"))
    async with house(rules) as we:
        await we.refuses(issuer.token(said(issuer), alg="RS512"))  # the key says RS256
        assert await we.read(issuer.token(said(issuer), key=curve, alg="ES384"))
        head = {"alg": "ES256", "typ": "at+jwt", "kid": "curve"}
        await we.refuses(f"{encoded(head)}.{encoded(said(issuer))}.{encoded(b'x' * 64)}")


@pytest.mark.parametrize(
    ("path", "page"),
    [
        (DISCOVERY, (200, {}, b"{")),
        (DISCOVERY, (200, {}, b"[]")),
        (DISCOVERY, (200, {}, b"[" * 100_000)),
        (DISCOVERY, (404, {}, b"")),
        (DISCOVERY, (302, {"Location": "https://example.com/"}, b"")),
        (JWKS, (500, {}, b"")),
        (JWKS, (301, {"Location": "http://127.0.0.1:1/"}, b"")),
        (JWKS, (200, {}, b'{"keys": []}')),
        (JWKS, (200, {}, b'{"keys": {"a": 1}}')),
        (JWKS, (200, {}, b"{}")),
        (JWKS, (200, {}, b"\xff\xfe")),
        (JWKS, (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b")),
        (JWKS, (200, {}, b'{"keys": [' + b" " * 300_000 + b"]}")),
    ],
)
async def test_an_answer_that_cannot_be_used_counts_as_none(issuer, path, page) -> None:
    issuer.pages[path] = page
    token = issuer.token(said(issuer))
    async with house(trust(issuer)) as we:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await we.read(token)
        assert issuer.asked[path] == 1
        issuer.pages.clear()
        we.clock.advance(timedelta(seconds=31))
        assert await we.read(token)


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://another.example.com"},
        {"issuer": None},
        {"jwks_uri": "http://keys.example.com/"},
        {"jwks_uri": "ftp://127.0.0.1/"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "https://user:pass@keys.example.com/"},
        {"jwks_uri": "https:///keys"},
        {"jwks_uri": "http://[::1/"},
        {"jwks_uri": "https://keys.example.com:port/"},
        {"jwks_uri": 7},
        {"jwks_uri": None},
    ],
)
async def test_a_discovery_document_that_is_not_the_issuers_own_leads_nowhere(
    issuer, document
) -> None:
    issuer.document.update(document)
    async with house(trust(issuer)) as we:
        with pytest.raises(Unavailable):
            await we.read(issuer.token(said(issuer)))
        assert issuer.fetches == 0


async def test_plain_http_is_for_development_only(issuer) -> None:
    async with house(trust(issuer), loopback=False) as we:
        with pytest.raises(Unavailable):
            await we.read(issuer.token(said(issuer)))
        assert issuer.fetches == 0


# --- an issuer in trouble -------------------------------------------------------------------------


async def test_a_storm_of_strange_keys_asks_the_issuer_twice_a_minute_at_most(issuer) -> None:
    async with house(trust(issuer)) as we:
        assert await we.read(issuer.token(said(issuer)))
        storm = [issuer.token(said(issuer), header={"kid": f"strange-{n}"}) for n in range(100)]

        async def all_refused() -> None:
            found = await asyncio.gather(*map(we.read, storm), return_exceptions=True)
            assert {type(each) for each in found} == {InvalidToken}

        await all_refused()
        assert issuer.fetches == 1
        for _ in range(4):  # two minutes
            we.clock.advance(timedelta(seconds=30))
            await all_refused()
        assert issuer.fetches == 5
        assert await we.read(issuer.token(said(issuer)))


async def test_those_who_wait_for_one_issuer_share_one_question(issuer) -> None:
    issuer.open.clear()
    async with house(trust(issuer)) as we:
        tokens = [issuer.token(said(issuer, sub=f"user-{n}")) for n in range(30)]
        waiting = [asyncio.create_task(we.read(token)) for token in tokens]
        await until(lambda: issuer.asked)
        waiting[0].cancel()  # the one who asked goes away; the others still get their answer
        issuer.open.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert all(isinstance(each, ExternalIdentity) for each in found[1:])
        assert issuer.asked == {DISCOVERY: 1, JWKS: 1}


async def test_keys_go_on_for_a_day_while_their_issuer_is_down(issuer, log) -> None:
    async with house(trust(issuer)) as we:
        assert await we.read(issuer.token(said(issuer)))
        issuer.pages[JWKS] = (503, {}, b"")
        for hour in (1, 6, 12, 23):
            we.clock.set(START + timedelta(hours=hour))
            exp = int(we.clock.now().timestamp()) + 60
            assert await we.read(issuer.token(said(issuer, exp=exp)))
            await until(lambda: any("HTTP status 503" in line for line in log.lines))
            log.lines.clear()
        we.clock.set(START + timedelta(hours=24))
        exp = int(we.clock.now().timestamp()) + 60
        with pytest.raises(Unavailable):
            await we.read(issuer.token(said(issuer, exp=exp)))
        issuer.pages.clear()
        we.clock.advance(timedelta(seconds=31))
        assert await we.read(issuer.token(said(issuer, exp=exp)))


async def test_an_issuer_that_is_gone_is_asked_again_later(issuer) -> None:
    token = issuer.token(said(issuer))
    issuer.close()
    async with house(trust(issuer)) as we:
        with pytest.raises(Unavailable):
            await we.read(token)


@pytest.mark.parametrize(
    ("header", "minutes"),
    [
        (None, 15),
        ("max-age=1200", 20),
        ("public, max-age=0", 5),
        ("max-age=999999999", 60),
        ("no-store", 15),
        ("s-maxage=1200", 15),
    ],
)
async def test_keys_are_kept_as_long_as_the_issuer_says_within_bounds(
    issuer, header, minutes
) -> None:
    issuer.cache_control = header
    token = issuer.token(said(issuer, exp=int(START.timestamp()) + 86_400))
    async with house(trust(issuer)) as we:
        await we.read(token)
        we.clock.advance(timedelta(minutes=minutes, seconds=-1))
        await we.read(token)
        await asyncio.sleep(0)
        assert issuer.fetches == 1
        we.clock.advance(timedelta(seconds=1))
        issuer.open.clear()  # nobody has to wait for the new ones
        await we.read(token)
        issuer.open.set()
        await until(lambda: issuer.fetches >= 2)


async def test_a_slow_issuer_holds_up_nobody_elses_tokens(issuer, other) -> None:
    """Our own tokens, and another issuer's, take as long as without it."""
    own = JoseTokens(
        storage=MemoryStorage(),
        clock=ManualClock(START),
        secret_key="a secret for tests",
        issuer="http://own",
        audience=AUDIENCE,
    )
    mine = await own.sign_access(
        AccessClaims(
            subject="jane",
            client_id="till",
            grant_id=GrantId(UUID(int=1)),
            scopes=frozenset(),
            role=None,
            token_id=UUID(int=2),
            issued_at=START,
            expires_at=START + timedelta(hours=1),
        )
    )
    async with house(trust(issuer), trust(other)) as we, house(trust(other)) as alone:
        theirs = other.token(said(other))

        async def how_much_longer() -> float:
            """In turn, so that what else the machine does meets both."""
            times: dict[House, list[float]] = {we: [], alone: []}
            for _ in range(300):
                for readers, took in times.items():
                    began = time.perf_counter()
                    assert await readers.read(mine) is None
                    await own.read_access(mine)
                    assert await readers.read(theirs)
                    took.append(time.perf_counter() - began)
            beside, without = (sorted(took)[len(took) // 2] for took in times.values())
            return beside / without

        await how_much_longer()
        issuer.open.clear()
        held_up = [
            asyncio.create_task(we.read(issuer.token(said(issuer, sub=f"user-{n}"))))
            for n in range(50)
        ]
        await until(lambda: issuer.asked)
        longer = await how_much_longer()
        assert not any(task.done() for task in held_up)
        assert issuer.asked == {DISCOVERY: 1}
        issuer.open.set()
        assert all(await asyncio.gather(*held_up))
    assert longer < 3, f"{longer:.2f} times as long"


async def test_an_operator_can_see_whom_we_reach(issuer, other) -> None:
    other.document["issuer"] = "https://another.example.com"
    async with house(trust(issuer), trust(other)) as we:
        found = await we.issuers.reach()
    assert found == {issuer.url: None, other.url: "the discovery document is another issuer's"}
