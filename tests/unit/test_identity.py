"""Accounts, apps and logins on the memory storage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest

from savannah.adapters.memory import (
    ManualClock,
    MemoryRateLimiter,
    MemoryStorage,
    SeededRandomness,
)
from savannah.adapters.passwords import Argon2Hasher
from savannah.adapters.tokens import JoseTokens
from savannah.application.identity import Identity, IdentitySettings, Login
from savannah.application.ports import AccessClaims
from savannah.domain.access import ROLE_SCOPES, Caller, Role, Scope
from savannah.domain.errors import (
    AccountDisabled,
    AuthenticationRequired,
    InsufficientScope,
    Invalid,
    InvalidClient,
    InvalidCredentials,
    InvalidToken,
    LastAdmin,
    NotFound,
    RegistrationClosed,
    RoleForbidden,
    SavannahError,
    TokenExpired,
    TokenRevoked,
    TooManyAttempts,
)
from savannah.domain.events import Event
from savannah.domain.identity import (
    Client,
    ClientType,
    Grant,
    GrantId,
    SigningKey,
    User,
    UserId,
    digest,
)
from savannah.domain.notification import Rate

T = TypeVar("T")

PASSWORD = "securepassword123"
HERE = "192.0.2.7"
OPEN = IdentitySettings(
    registration_open=True, registration_role=Role.STAFF, app_creation_open=True
)


class CountingHasher(Argon2Hasher):
    """Cheap argon2id that knows how often it worked, and can be interrupted before it answers."""

    def __init__(self, *, time_cost: int = 1) -> None:
        super().__init__(memory_kib=8, time_cost=time_cost, threads=1)
        self.verified: list[str | None] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def verify(self, password: str, password_hash: str | None) -> tuple[bool, str | None]:
        self.verified.append(password_hash)
        answer = await super().verify(password, password_hash)
        if self.meanwhile is not None:
            event, self.meanwhile = self.meanwhile, None
            await event()
        return answer


class Office:
    """Everything the use cases need, and shortcuts for what most tests begin with."""

    def __init__(self, settings: IdentitySettings = OPEN) -> None:
        self.storage = MemoryStorage()
        self.clock = ManualClock(datetime(2026, 11, 23, 9, tzinfo=UTC))
        self.hasher = CountingHasher()
        self.limiter = MemoryRateLimiter(self.clock)
        self.randomness = SeededRandomness()
        self.tokens = JoseTokens(
            storage=self.storage,
            clock=self.clock,
            secret_key="a secret for tests",
            issuer="http://localhost:8000",
            audience="savannah",
        )
        self.identity = self.with_settings(settings)

    def with_settings(
        self, settings: IdentitySettings, *, hasher: Argon2Hasher | None = None
    ) -> Identity:
        return Identity(
            storage=self.storage,
            tokens=self.tokens,
            hasher=hasher or self.hasher,
            limiter=self.limiter,
            clock=self.clock,
            randomness=self.randomness,
            settings=settings,
        )

    async def john(self, **more: str) -> User:
        fields = {"username": "johndoe", "email": "john@example.com", "password": PASSWORD}
        return await self.identity.register(**{**fields, **more})

    async def app(self, **more: Any) -> tuple[Client, str]:
        client, secret = await self.identity.create_client(
            **{"name": "My Mobile App", "by": None, **more}
        )
        return client, secret or ""

    async def login(self, client: Client, secret: str | None, **more: str) -> Login:
        fields = {"username": "johndoe", "password": PASSWORD, "address": HERE}
        return await self.identity.login(
            client_id=client.client_id, client_secret=secret, **{**fields, **more}
        )

    async def at_work(self, **more: str) -> tuple[Login, Caller]:
        """John, his app and a login."""
        await self.john()
        client, secret = await self.app()
        login = await self.login(client, secret, **more)
        return login, await self.identity.authenticate(login.access_token)

    async def boss(self) -> Caller:
        user = await self.identity.create_superuser(username="boss", password="Zawadi-2026")
        return replace(Caller.admin(f"user:{user.id}"), user_id=user.id, request_id="req-boss")

    async def events(self, subject: str, subject_id: UUID) -> list[Event]:
        async with self.storage(reading=True) as uow:
            return list(await uow.events.of(subject, subject_id))

    async def actions(self, subject: str, subject_id: UUID) -> list[str]:
        return [event.action for event in await self.events(subject, subject_id)]

    async def machine(self, **more: Any) -> tuple[Client, Caller, str]:
        """An app with tokens of its own, its caller, and such a token."""
        boss = await self.boss()
        client, _ = await self.app(
            **{"name": "ERP", "grant_types": ["client_credentials"], "by": boss, **more}
        )
        grant = Grant(
            id=GrantId(self.randomness.uuid()),
            user_id=None,
            client_id=client.client_id,
            scopes=client.scopes,
            created_at=self.clock.now(),
        )
        async with self.storage() as uow:
            await uow.grants.add(grant)
            await uow.commit()
        token = await self.tokens.sign_access(self.claims(grant, client.client_id))
        return client, await self.identity.authenticate(token), token

    def claims(self, grant: Grant, subject: str) -> AccessClaims:
        now = self.clock.now()
        return AccessClaims(
            subject=subject,
            client_id=grant.client_id,
            grant_id=grant.id,
            scopes=grant.scopes,
            role=None,
            token_id=self.randomness.uuid(),
            issued_at=now,
            expires_at=now + timedelta(hours=1),
        )


async def _made_key() -> SigningKey:
    office = Office()
    await office.tokens.rotate()
    async with office.storage(reading=True) as uow:
        return (await uow.signing_keys.list())[0]


@pytest.fixture(scope="module")
def signing_key() -> SigningKey:
    """One key pair for every test: making one takes a tenth of a second."""
    return asyncio.run(_made_key())


Scene = Callable[[Office], Coroutine[Any, Any, None]]
Play = Callable[..., None]


@pytest.fixture
def play(signing_key: SigningKey) -> Play:
    """Runs one scene in a new office."""

    def run(scene: Scene, settings: IdentitySettings = OPEN) -> None:
        async def whole() -> None:
            office = Office(settings)
            async with office.storage() as uow:
                await uow.signing_keys.add(signing_key)
                await uow.commit()
            await scene(office)

        asyncio.run(whole())

    return run


def field_codes(invalid: Invalid) -> set[tuple[str, str]]:
    return {(problem.field, problem.code) for problem in invalid.problems}


async def refusal(awaited: Awaitable[object]) -> SavannahError:
    with pytest.raises(SavannahError) as caught:
        await awaited
    return caught.value


# --- registration ---------------------------------------------------------------------------------


def test_whoever_registers_gets_an_account_in_the_role_of_the_settings(play: Play) -> None:
    async def scene(office: Office) -> None:
        user = await office.john(
            first_name=" John ", last_name="Doe", confirm_password=PASSWORD, request_id="req-1"
        )
        assert (user.username, user.email, user.first_name) == (
            "johndoe",
            "john@example.com",
            "John",
        )
        assert (user.role, user.is_active, user.last_login) == (Role.STAFF, True, None)
        assert user.date_joined == office.clock.now()
        assert user.password_hash.startswith("$argon2id$")
        [event] = await office.events("user", user.id)
        assert (event.action, event.actor) == ("user.registered", f"user:{user.id}")
        assert (event.data, event.request_id) == ({"role": "staff"}, "req-1")

    play(scene)


def test_an_account_needs_no_e_mail_address(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.identity.register(username="first", password=PASSWORD)
        second = await office.identity.register(username="second", password=PASSWORD, email=None)
        assert second.email is None

    play(scene)


def test_closed_registration_is_closed_whatever_is_typed(play: Play) -> None:
    async def scene(office: Office) -> None:
        with pytest.raises(RegistrationClosed):
            await office.identity.register(username="", password="")

    play(scene, IdentitySettings())


def test_all_problems_of_a_registration_come_together_taken_names_too(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        refused = await refusal(
            office.identity.register(
                username="JohnDoe",
                email="JOHN@example.com",
                password="short",
                confirm_password="other",
                first_name="j" * 151,
            )
        )
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {
            ("username", "username_taken"),
            ("email", "email_taken"),
            ("password", "password_too_short"),
            ("password", "password_too_simple"),
            ("confirm_password", "password_mismatch"),
            ("first_name", "too_long"),
        }

    play(scene)


def test_nobody_takes_the_address_of_another_as_a_user_name_or_the_reverse(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        await office.identity.register(username="jane@example.com", password=PASSWORD)
        squatter = await refusal(
            office.identity.register(username="john@example.com", password=PASSWORD)
        )
        late = await refusal(
            office.identity.register(username="jane2", email="jane@example.com", password=PASSWORD)
        )
        assert isinstance(squatter, Invalid)
        assert isinstance(late, Invalid)
        assert field_codes(squatter) == {("username", "username_taken")}
        assert field_codes(late) == {("email", "email_taken")}

    play(scene)


def test_one_name_can_be_ones_user_name_and_address(play: Play) -> None:
    async def scene(office: Office) -> None:
        user = await office.john(username="john@example.com")
        assert user.username == user.email

    play(scene)


def test_of_two_registrations_at_once_under_one_name_one_succeeds(play: Play) -> None:
    async def scene(office: Office) -> None:
        results = await asyncio.gather(office.john(), office.john(), return_exceptions=True)
        assert sorted(isinstance(result, Invalid) for result in results) == [False, True]

    play(scene)


def test_the_operator_makes_administrators_even_where_registration_is_closed(play: Play) -> None:
    async def scene(office: Office) -> None:
        boss = await office.identity.create_superuser(
            username="boss", email="boss@example.com", password="Zawadi-2026"
        )
        assert boss.role is Role.ADMIN
        [event] = await office.events("user", boss.id)
        assert event.actor == "operator"
        refused = await refusal(
            office.identity.create_superuser(username="boss", password="12345678")
        )
        assert isinstance(refused, Invalid)
        assert ("username", "username_taken") in field_codes(refused)
        assert ("password", "password_too_common") in field_codes(refused)

    play(scene, IdentitySettings())


# --- profile --------------------------------------------------------------------------------------


def test_people_see_and_change_their_own_profile(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work()
        assert await office.identity.profile(by=john) == login.user
        after = await office.identity.update_profile(
            {"first_name": "Johnny", "email": "johnny@example.com"}, by=john
        )
        assert await office.identity.profile(by=john) == after
        assert (after.first_name, after.email) == ("Johnny", "johnny@example.com")
        event = (await office.events("user", after.id))[-1]
        assert (event.action, event.data) == ("user.updated", {"fields": ["first_name", "email"]})

    play(scene)


def test_a_change_that_changes_nothing_leaves_no_trace(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work()
        before = await office.events("user", login.user.id)
        same = await office.identity.update_profile({"email": "john@example.com"}, by=john)
        assert same == login.user
        assert await office.events("user", login.user.id) == before

    play(scene)


def test_an_address_can_be_respelled_and_removed(play: Play) -> None:
    async def scene(office: Office) -> None:
        _, john = await office.at_work()
        respelled = await office.identity.update_profile({"email": "John@Example.com"}, by=john)
        assert respelled.email == "John@Example.com"
        assert (await office.identity.update_profile({"email": None}, by=john)).email is None

    play(scene)


def test_the_address_or_user_name_of_another_is_taken(play: Play) -> None:
    async def scene(office: Office) -> None:
        _, john = await office.at_work()
        await office.john(username="jane@example.com", email="jane.doe@example.com")
        for address in ("JANE.DOE@example.com", "jane@example.com"):
            refused = await refusal(office.identity.update_profile({"email": address}, by=john))
            assert isinstance(refused, Invalid)
            assert field_codes(refused) == {("email", "email_taken")}

    play(scene)


def test_a_caller_without_an_account_has_no_profile_and_no_password(play: Play) -> None:
    async def scene(office: Office) -> None:
        till = Caller.staff("till-3")
        attempts = [
            office.identity.profile(by=till),
            office.identity.update_profile({}, by=till),
            office.identity.change_password(
                old_password=PASSWORD,
                new_password="Jambo-2026",
                confirm_password="Jambo-2026",
                by=till,
                address=HERE,
            ),
            office.identity.logout(by=till),
        ]
        for attempt in attempts:
            assert isinstance(await refusal(attempt), RoleForbidden)

    play(scene)


# --- passwords ------------------------------------------------------------------------------------


def changed(
    office: Office, by: Caller, *, old: str = PASSWORD, new: str = "Jambo-2026", again: str = ""
) -> Coroutine[Any, Any, None]:
    return office.identity.change_password(
        old_password=old,
        new_password=new,
        confirm_password=again or new,
        by=by,
        address=HERE,
    )


def test_a_new_password_ends_every_login_of_the_person_and_no_other(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, secret = await office.app()
        await office.john()
        await office.john(username="jane", email="jane@example.com")
        mine, elsewhere = [await office.login(client, secret) for _ in range(2)]
        hers = await office.login(client, secret, username="jane")
        john = await office.identity.authenticate(mine.access_token)

        await changed(office, john)

        for login in (mine, elsewhere):
            refused = await refusal(office.identity.authenticate(login.access_token))
            assert isinstance(refused, TokenRevoked)
        await office.identity.authenticate(hers.access_token)
        assert isinstance(await refusal(office.login(client, secret)), InvalidCredentials)
        await office.login(client, secret, password="Jambo-2026")
        assert "user.password_changed" in await office.actions("user", mine.user.id)

    play(scene)


def test_every_problem_of_a_password_change_comes_together(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work()
        refused = await refusal(changed(office, john, old="wrong", new="johndoe", again="x"))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {
            ("old_password", "wrong_password"),
            ("new_password", "password_too_short"),
            ("new_password", "password_too_simple"),
            ("new_password", "password_too_similar"),
            ("confirm_password", "password_mismatch"),
        }
        assert "user.password_change_failed" in await office.actions("user", login.user.id)
        await office.identity.authenticate(login.access_token)

    play(scene)


def test_the_new_password_is_not_the_old_one(play: Play) -> None:
    async def scene(office: Office) -> None:
        _, john = await office.at_work()
        refused = await refusal(changed(office, john, new=PASSWORD))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {("new_password", "password_too_similar")}

    play(scene)


def test_wrong_old_passwords_count_toward_the_login_lock(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work()
        client, secret = await office.app()
        for _ in range(5):
            assert isinstance(await refusal(changed(office, john, old="wrong")), Invalid)
        hashed = len(office.hasher.verified)
        assert isinstance(await refusal(changed(office, john)), TooManyAttempts)
        assert isinstance(await refusal(office.login(client, secret)), TooManyAttempts)
        assert len(office.hasher.verified) == hashed
        await office.identity.authenticate(login.access_token)

    play(scene)


def test_a_password_changed_meanwhile_makes_the_old_one_wrong(play: Play) -> None:
    async def scene(office: Office) -> None:
        _, john = await office.at_work()

        async def faster() -> None:
            await changed(office, john, new="Faster-2026")

        office.hasher.meanwhile = faster
        refused = await refusal(changed(office, john))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {("old_password", "wrong_password")}

    play(scene)


def test_passwords_are_compared_in_one_unicode_form_and_never_trimmed(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, secret = await office.app()
        await office.john(password=" Caf\u00e9 ol\u00e9 ")
        await office.login(client, secret, password=" Cafe\u0301 ole\u0301 ")
        refused = await refusal(office.login(client, secret, password="Caf\u00e9 ol\u00e9"))
        assert isinstance(refused, InvalidCredentials)

    play(scene)


# --- login ----------------------------------------------------------------------------------------


def test_a_login_without_scope_allows_all_the_role_does(play: Play) -> None:
    async def scene(office: Office) -> None:
        office.clock.advance(timedelta(minutes=10))
        login, john = await office.at_work()
        assert login.scope == (
            "openid profile email customers:read customers:write orders:read orders:write "
            "analytics:read notifications:write"
        )
        assert login.expires_in == 3600
        assert login.refresh_token is not None
        assert login.refresh_token.startswith("rt_")
        assert login.id_token is not None
        assert login.user.last_login == office.clock.now()
        assert john == Caller(
            principal=f"user:{login.user.id}",
            permissions=ROLE_SCOPES[Role.STAFF],
            role=Role.STAFF,
            user_id=login.user.id,
            client_id=john.client_id,
            grant_id=john.grant_id,
        )
        assert await office.actions("user", login.user.id) == ["user.registered", "user.logged_in"]
        for secret in (login.access_token, login.refresh_token, login.id_token):
            assert secret not in repr(login)

    play(scene)


def test_the_refresh_token_is_stored_as_a_digest_and_idles_out(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work()
        assert login.refresh_token is not None
        assert len(login.refresh_token) >= 43
        async with office.storage(reading=True) as uow:
            kept = await uow.grants.find_refresh(digest(login.refresh_token))
        assert kept is not None
        assert kept.grant_id == john.grant_id
        assert kept.expires_at == office.clock.now() + timedelta(days=14)

    play(scene)


@pytest.mark.parametrize(
    "spelling", ["JohnDoe", " johndoe ", "john@example.com", "JOHN@Example.com"]
)
def test_people_log_in_by_user_name_or_address_in_any_case(play: Play, spelling: str) -> None:
    async def scene(office: Office) -> None:
        login, _ = await office.at_work(username=spelling)
        assert login.user.username == "johndoe"

    play(scene)


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ("orders:read", "orders:read"),
        ("read", "customers:read orders:read analytics:read"),
        ("openid orders:read users:manage nonsense", "openid orders:read"),
        ("  ", None),
    ],
)
def test_a_login_gets_what_of_the_scope_its_role_has(
    play: Play, asked: str, granted: str | None
) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work(scope=asked)
        if granted is not None:
            assert login.scope == granted
            names = set(granted.split())
            assert john.permissions == {scope for scope in Scope if scope in names}
            assert (login.id_token is not None) == ("openid" in names)
        else:
            assert john.permissions == ROLE_SCOPES[Role.STAFF]

    play(scene)


def test_a_scope_of_which_nothing_can_be_granted_is_invalid(play: Play) -> None:
    async def scene(office: Office) -> None:
        refused = await refusal(office.at_work(scope="users:manage"))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {("scope", "invalid_choice")}

    play(scene)


def test_an_app_never_gets_more_than_it_was_made_for(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app(
            scopes=["orders:read"], grant_types=["authorization_code"]
        )
        login = await office.login(client, secret)
        assert login.scope == "orders:read"
        assert login.refresh_token is None
        assert login.id_token is None

    play(scene)


def test_a_public_app_logs_in_without_a_secret(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app(client_type="public")
        assert secret == ""
        assert (await office.login(client, None)).user.username == "johndoe"

    play(scene)


def test_a_wrong_app_is_refused_before_anything_else_is_looked_at(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        boss = await office.boss()
        third, third_secret = await office.app(first_party=False, by=boss)
        off, off_secret = await office.app()
        async with office.storage() as uow:
            await uow.clients.save(replace(off, is_active=False))
            await uow.commit()
        attempts = [
            (replace(client, client_id="your-client-id"), secret),
            (replace(client, client_id="caf\u00e9"), secret),
            (replace(client, client_id="a\x00b"), secret),
            (client, None),
            (client, ""),
            (client, secret + "x"),
            (client, third_secret),
            (third, third_secret),
            (off, off_secret),
        ]
        for app, shown in attempts:
            assert isinstance(await refusal(office.login(app, shown)), InvalidClient)
        assert office.hasher.verified == []

    play(scene)


def test_wrong_user_and_wrong_password_look_and_cost_the_same(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        client, secret = await office.app()
        wrong = await refusal(office.login(client, secret, password="wrong"))
        nobody = await refusal(office.login(client, secret, username="nobody"))
        strange = await refusal(office.login(client, secret, username="a\x00b"))
        for refused in (wrong, nobody, strange):
            assert isinstance(refused, InvalidCredentials)
            assert str(refused) == str(wrong)
        assert office.hasher.verified == [john.password_hash, None, None]

    play(scene)


def test_the_audit_log_names_failures_and_no_name_that_is_not_an_account(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        client, secret = await office.app()
        await refusal(office.login(client, secret, password="wrong", request_id="req-9"))
        await refusal(office.login(client, secret, username="MyPassword-Oops"))
        failed = (await office.events("user", john.id))[-1]
        assert (failed.action, failed.data) == ("user.login_failed", {"reason": "wrong_password"})
        assert (failed.actor, failed.request_id) == (f"client:{client.client_id}", "req-9")
        unknown = (await office.events("client", client.id))[-1]
        assert unknown.action == "client.login_failed"
        assert unknown.data == {"reason": "unknown_user"}
        assert "MyPassword-Oops" not in repr(unknown)

    play(scene)


@pytest.mark.parametrize("name", ["johndoe", "nobody"])
def test_five_failures_lock_a_name_at_an_address_known_or_not(play: Play, name: str) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        for spelling in (name, name.upper(), f" {name}", name, name):
            refused = await refusal(office.login(client, secret, username=spelling, password="x"))
            assert isinstance(refused, InvalidCredentials)
            office.clock.advance(timedelta(minutes=1))
        hashed = len(office.hasher.verified)
        locked = await refusal(office.login(client, secret, username=name))
        assert isinstance(locked, TooManyAttempts)
        assert locked.retry_after == timedelta(minutes=10)
        assert len(office.hasher.verified) == hashed

    play(scene)


def test_the_lock_is_for_one_address_and_ends(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        for _ in range(5):
            await refusal(office.login(client, secret, password="x"))
        await office.login(client, secret, address="198.51.100.4")
        assert isinstance(await refusal(office.login(client, secret)), TooManyAttempts)
        office.clock.advance(timedelta(minutes=15))
        await office.login(client, secret)

    play(scene)


def test_user_name_and_address_of_one_account_share_the_lock(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        for spelling in ("johndoe", "john@example.com") * 2:
            await refusal(office.login(client, secret, username=spelling, password="x"))
        await refusal(office.login(client, secret, password="x"))
        refused = await refusal(office.login(client, secret, username="john@example.com"))
        assert isinstance(refused, TooManyAttempts)

    play(scene)


def test_a_login_that_succeeds_forgets_the_failures(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        for _ in range(3):
            for _ in range(4):
                await refusal(office.login(client, secret, password="x"))
            await office.login(client, secret)

    play(scene)


def test_guesses_sent_at_once_get_no_more_tries_than_one_by_one(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        guesses = [f"guess-{number}" for number in range(11)] + [PASSWORD]
        answers = await asyncio.gather(
            *(office.login(client, secret, password=guess) for guess in guesses),
            return_exceptions=True,
        )
        kinds = [type(answer) for answer in answers]
        assert kinds.count(InvalidCredentials) == 5
        assert kinds.count(TooManyAttempts) == 7  # the right one among them

    play(scene)


def test_right_logins_at_once_do_not_lock_each_other_out(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        logins = await asyncio.gather(*(office.login(client, secret) for _ in range(8)))
        assert len({login.access_token for login in logins}) == 8

    play(scene)


def test_the_lock_can_be_switched_off(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        for _ in range(7):
            refused = await refusal(office.login(client, secret, password="x"))
            assert isinstance(refused, InvalidCredentials)
        await office.login(client, secret)

    play(scene, replace(OPEN, login_lock=None))


def test_another_rate_locks_earlier(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.john()
        client, secret = await office.app()
        await refusal(office.login(client, secret, password="x"))
        assert isinstance(await refusal(office.login(client, secret)), TooManyAttempts)

    play(scene, replace(OPEN, login_lock=Rate.parse("1/h")))


def test_only_the_right_password_learns_that_an_account_is_disabled(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        client, secret = await office.app()
        await office.identity.set_active(john.id, False, by=None)
        wrong = await refusal(office.login(client, secret, password="wrong"))
        right = await refusal(office.login(client, secret))
        assert isinstance(wrong, InvalidCredentials)
        assert isinstance(right, AccountDisabled)
        event = (await office.events("user", john.id))[-1]
        assert (event.action, event.data) == ("user.login_failed", {"reason": "disabled"})

    play(scene)


def test_an_outdated_hash_is_renewed_at_login(play: Play) -> None:
    async def scene(office: Office) -> None:
        before = await office.john()
        client, secret = await office.app()
        stronger = office.with_settings(OPEN, hasher=CountingHasher(time_cost=2))
        login = await stronger.login(
            username="johndoe",
            password=PASSWORD,
            client_id=client.client_id,
            client_secret=secret,
            address=HERE,
        )
        assert "t=1," in before.password_hash
        assert "t=2," in login.user.password_hash
        await office.login(client, secret)

    play(scene)


def test_a_login_that_a_password_change_overtakes_fails(play: Play) -> None:
    async def scene(office: Office) -> None:
        _, john = await office.at_work()
        client, secret = await office.app()

        async def faster() -> None:
            await changed(office, john)

        office.hasher.meanwhile = faster
        assert isinstance(await refusal(office.login(client, secret)), InvalidCredentials)

    play(scene)


def test_short_lived_and_long_lived_tokens_say_so_and_an_id_token_lives_an_hour_at_most(
    play: Play,
) -> None:
    async def scene(office: Office) -> None:
        login, _ = await office.at_work()
        assert login.expires_in == 7200
        assert login.id_token is not None
        # An ID token is no access token, whatever it says.
        refused = await refusal(office.identity.authenticate(login.id_token))
        assert isinstance(refused, InvalidToken)
        office.clock.advance(timedelta(seconds=7199))
        await office.identity.authenticate(login.access_token)
        office.clock.advance(timedelta(seconds=1))
        expired = await refusal(office.identity.authenticate(login.access_token))
        assert isinstance(expired, TokenExpired)

    play(scene, replace(OPEN, access_token_ttl=timedelta(hours=2)))


# --- whose a request is ---------------------------------------------------------------------------


def test_the_placeholder_of_the_documentation_is_no_token(play: Play) -> None:
    async def scene(office: Office) -> None:
        refused = await refusal(office.identity.authenticate("your-access-token"))
        assert isinstance(refused, InvalidToken)

    play(scene)


def test_the_request_id_goes_into_what_the_caller_does(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, _ = await office.at_work()
        john = await office.identity.authenticate(login.access_token, request_id="req-77")
        await office.identity.logout(by=john)
        assert (await office.events("user", login.user.id))[-1].request_id == "req-77"

    play(scene)


def test_another_role_acts_at_the_next_request(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, _ = await office.at_work()
        await office.identity.set_role("johndoe", Role.VIEWER, by=None)
        viewer = await office.identity.authenticate(login.access_token)
        assert (viewer.role, viewer.permissions) == (Role.VIEWER, ROLE_SCOPES[Role.VIEWER])
        await office.identity.set_role("johndoe", Role.ADMIN, by=None)
        promoted = await office.identity.authenticate(login.access_token)
        # The token still allows only what was granted to it.
        assert (promoted.role, promoted.permissions) == (Role.ADMIN, ROLE_SCOPES[Role.STAFF])

    play(scene)


def test_a_disabled_person_is_out_at_once_and_back_only_through_a_new_login(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, _ = await office.at_work()
        await office.identity.set_active("johndoe", False, by=None)
        refused = await refusal(office.identity.authenticate(login.access_token))
        assert isinstance(refused, AccountDisabled)
        await office.identity.set_active("johndoe", True, by=None)
        refused = await refusal(office.identity.authenticate(login.access_token))
        assert isinstance(refused, TokenRevoked)

    play(scene)


def test_a_token_dies_with_its_grant_its_app_and_its_person(play: Play) -> None:
    async def scene(office: Office) -> None:
        now = office.clock.now()
        client, _ = await office.app()
        off, _ = await office.app()
        async with office.storage() as uow:
            await uow.clients.save(replace(off, is_active=False))
            base = Grant(
                id=GrantId(uuid4()),
                user_id=None,
                client_id=client.client_id,
                scopes=client.scopes,
                created_at=now,
            )
            dead = [
                replace(base, id=GrantId(uuid4()), revoked_at=now),
                replace(base, id=GrantId(uuid4()), client_id="gone"),
                replace(base, id=GrantId(uuid4()), client_id=off.client_id),
                replace(base, id=GrantId(uuid4()), user_id=UserId(uuid4())),
            ]
            for grant in (base, *dead):
                await uow.grants.add(grant)
            await uow.commit()
        lost = replace(base, id=GrantId(uuid4()))
        for grant in (*dead, lost):
            token = await office.tokens.sign_access(office.claims(grant, "someone"))
            assert isinstance(await refusal(office.identity.authenticate(token)), TokenRevoked)
        live = await office.tokens.sign_access(office.claims(base, "someone"))
        await office.identity.authenticate(live)

    play(scene)


def test_a_machine_has_no_role_only_its_scopes(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, erp, token = await office.machine(scopes=["orders:read", "orders:write"])
        assert erp == Caller(
            principal=f"client:{client.client_id}",
            permissions=frozenset({Scope.ORDERS_READ, Scope.ORDERS_WRITE}),
            client_id=client.client_id,
            grant_id=erp.grant_id,
        )
        assert isinstance(await refusal(office.identity.profile(by=erp)), RoleForbidden)
        async with office.storage() as uow:
            await uow.clients.save(replace(client, scopes=frozenset({"orders:read"})))
            await uow.commit()
        narrowed = await office.identity.authenticate(token)
        assert narrowed.permissions == {Scope.ORDERS_READ}

    play(scene)


def test_token_info_says_what_the_token_allows_now(play: Play) -> None:
    async def scene(office: Office) -> None:
        login, john = await office.at_work(scope="openid read write")
        begun = int(office.clock.now().timestamp())
        office.clock.advance(timedelta(seconds=100, milliseconds=500))
        await office.identity.set_role("johndoe", Role.VIEWER, by=None)
        info = await office.identity.token_info(login.access_token)
        assert info.active
        assert (info.sub, info.username) == (str(login.user.id), "johndoe")
        assert (info.role, info.client_id) == (Role.VIEWER, john.client_id)
        assert info.client_name == "My Mobile App"
        assert info.scope == "openid customers:read orders:read analytics:read"
        assert (info.iat, info.exp, info.expires_in) == (begun, begun + 3600, 3499)

    play(scene)


def test_token_info_of_a_machine_names_no_person(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, _, token = await office.machine(scopes=["orders:read"])
        info = await office.identity.token_info(token)
        assert (info.sub, info.username, info.role) == (client.client_id, None, None)
        assert (info.client_name, info.scope) == ("ERP", "orders:read")

    play(scene)


# --- logout ---------------------------------------------------------------------------------------


def test_logout_ends_this_login_alone(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, secret = await office.app()
        await office.john()
        mine, elsewhere = [await office.login(client, secret) for _ in range(2)]
        john = await office.identity.authenticate(mine.access_token)
        await office.identity.logout(by=john)
        refused = await refusal(office.identity.authenticate(mine.access_token))
        assert isinstance(refused, TokenRevoked)
        refused = await refusal(office.identity.token_info(mine.access_token))
        assert isinstance(refused, TokenRevoked)
        await office.identity.authenticate(elsewhere.access_token)
        assert (await office.actions("user", mine.user.id))[-1] == "user.logged_out"
        await office.identity.logout(by=john)

    play(scene)


def test_logout_takes_a_refresh_token_of_the_same_person_and_app_along(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, secret = await office.app()
        other_app, other_secret = await office.app()
        await office.john()
        await office.john(username="jane", email="jane@example.com")
        mine, second = [await office.login(client, secret) for _ in range(2)]
        other = await office.login(other_app, other_secret)
        hers = await office.login(client, secret, username="jane")
        john = await office.identity.authenticate(mine.access_token)
        shown = [second, other, hers]
        for token in (*(login.refresh_token for login in shown), "rt_unknown", "\ud800", ""):
            await office.identity.logout(by=john, refresh_token=token)
        ended = []
        for login in shown:
            try:
                await office.identity.authenticate(login.access_token)
            except TokenRevoked:
                ended.append(login)
        assert ended == [second]

    play(scene)


def test_a_machine_logs_out_too(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, erp, token = await office.machine()
        await office.identity.logout(by=erp)
        assert isinstance(await refusal(office.identity.authenticate(token)), TokenRevoked)
        assert (await office.actions("client", client.id))[-1] == "client.logged_out"

    play(scene)


def test_logging_out_of_a_login_that_is_gone_changes_nothing(play: Play) -> None:
    async def scene(office: Office) -> None:
        grant = Grant(
            id=GrantId(uuid4()),
            user_id=None,
            client_id="gone",
            scopes=frozenset(),
            created_at=office.clock.now(),
        )
        lost = replace(Caller.viewer("client:gone"), grant_id=grant.id)
        await office.identity.logout(by=lost)
        async with office.storage() as uow:
            await uow.grants.add(grant)
            await uow.commit()
        await office.identity.logout(by=lost)
        async with office.storage(reading=True) as uow:
            kept = await uow.grants.find(grant.id)
        assert kept is not None
        assert kept.revoked_at == office.clock.now()

    play(scene)


# --- apps -----------------------------------------------------------------------------------------


def test_anybody_makes_a_first_party_app_where_that_is_open(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, secret = await office.identity.create_client(
            name="My Mobile App", by=None, request_id="req-5"
        )
        assert secret is not None
        assert len(secret) >= 43
        assert secret.isascii()
        assert secret.isalnum()
        assert client.client_id.isalnum()
        assert client.secret_digests == (digest(secret),)
        assert secret not in repr(client)
        assert client.client_type is ClientType.CONFIDENTIAL
        assert [str(grant) for grant in client.grant_types] == [
            "authorization_code",
            "refresh_token",
        ]
        assert client.first_party
        assert client.owner_id is None
        assert client.scopes == {"openid", "profile", "email", *Scope}
        [event] = await office.events("client", client.id)
        assert (event.action, event.actor) == ("client.created", "anonymous")
        assert event.request_id == "req-5"

    play(scene)


def test_tokens_of_its_own_an_app_gets_from_those_who_manage_apps(play: Play) -> None:
    async def scene(office: Office) -> None:
        for by in (None, Caller.staff("user:x")):
            refused = await refusal(office.app(grant_types=["client_credentials"], by=by))
            assert isinstance(refused, InsufficientScope)
            assert refused.required_scope == "apps:manage"
        boss = await office.boss()
        client, _ = await office.app(grant_types=["client_credentials"], by=boss)
        assert not client.first_party
        assert client.owner_id == boss.user_id
        assert client.scopes == {"openid", "profile", "email", *ROLE_SCOPES[Role.STAFF]}
        [event] = await office.events("client", client.id)
        assert (event.actor, event.request_id) == (boss.principal, "req-boss")

    play(scene)


def test_nobody_gives_a_machine_more_than_they_have(play: Play) -> None:
    async def scene(office: Office) -> None:
        boss = await office.boss()
        narrow = replace(boss, permissions=frozenset({Scope.APPS_MANAGE, Scope.ORDERS_READ}))
        refused = await refusal(
            office.app(
                grant_types=["client_credentials"], scopes=["orders:read", "write"], by=narrow
            )
        )
        assert isinstance(refused, InsufficientScope)
        assert refused.required_scope == "customers:write"
        client, _ = await office.app(grant_types=["client_credentials"], by=narrow)
        assert client.scopes == {"openid", "profile", "email", "orders:read"}

    play(scene)


def test_where_administrators_make_apps_nobody_else_does(play: Play) -> None:
    async def scene(office: Office) -> None:
        assert isinstance(await refusal(office.app(name="")), AuthenticationRequired)
        refused = await refusal(office.app(name="", by=Caller.staff("user:x")))
        assert isinstance(refused, InsufficientScope)
        assert refused.required_scope == "apps:manage"
        client, _ = await office.app(by=await office.boss())
        assert client.first_party
        third, _ = await office.app(by=Caller.admin("embedding"), first_party=False)
        assert not third.first_party

    play(scene, replace(OPEN, app_creation_open=False))


def test_a_broken_app_request_makes_no_app(play: Play) -> None:
    async def scene(office: Office) -> None:
        refused = await refusal(office.app(name="", redirect_uris=["http://evil.example/"]))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {
            ("name", "blank"),
            ("redirect_uris/0", "invalid_redirect_uri"),
        }

    play(scene)


# --- administration -------------------------------------------------------------------------------


def test_managers_and_the_operator_see_everybody(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        boss = await office.boss()
        for by in (boss, None):
            users = await office.identity.list_users(by=by)
            assert [user.username for user in users] == ["boss", "johndoe"]
            assert await office.identity.get_user(john.id, by=by) == john
        assert isinstance(
            await refusal(office.identity.get_user(UserId(uuid4()), by=boss)), NotFound
        )

    play(scene)


def test_nobody_else_manages_accounts(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        staff = Caller.staff("user:x")
        attempts = [
            office.identity.list_users(by=staff),
            office.identity.get_user(john.id, by=staff),
            office.identity.set_role("johndoe", Role.ADMIN, by=staff),
            office.identity.set_active(john.id, False, by=staff),
            office.identity.change_user(john.id, {"role": "admin"}, by=staff),
        ]
        for attempt in attempts:
            refused = await refusal(attempt)
            assert isinstance(refused, InsufficientScope)
            assert refused.required_scope == "users:manage"

    play(scene)


def test_role_and_activity_change_together_with_an_entry_each(play: Play) -> None:
    async def scene(office: Office) -> None:
        john = await office.john()
        boss = await office.boss()
        changes = {"role": "viewer", "is_active": False}
        after = await office.identity.change_user(john.id, changes, by=boss)
        assert (after.role, after.is_active) == (Role.VIEWER, False)
        assert await office.identity.change_user("JOHN@example.com", changes, by=boss) == after
        await office.identity.set_active("johndoe", True, by=None)
        events = await office.events("user", john.id)
        assert [(event.action, event.actor) for event in events[1:]] == [
            ("user.role_changed", boss.principal),
            ("user.disabled", boss.principal),
            ("user.enabled", "operator"),
        ]
        assert events[1].data == {"before": "staff", "after": "viewer"}
        assert events[1].request_id == "req-boss"

    play(scene)


def test_an_account_that_does_not_exist_cannot_be_changed(play: Play) -> None:
    async def scene(office: Office) -> None:
        for who in ("nobody", UserId(uuid4())):
            refused = await refusal(office.identity.set_role(who, Role.ADMIN, by=None))
            assert isinstance(refused, NotFound)

    play(scene)


def test_the_last_active_administrator_stays_one(play: Play) -> None:
    async def scene(office: Office) -> None:
        boss = await office.boss()
        gone = await office.identity.create_superuser(username="gone", password="Zawadi-2026")
        await office.identity.set_active(gone.id, False, by=boss)
        for attempt in (
            office.identity.set_role("boss", Role.STAFF, by=boss),
            office.identity.set_active("boss", False, by=None),
        ):
            assert isinstance(await refusal(attempt), LastAdmin)
        # Demoting one who is disabled anyway leaves the active one.
        await office.identity.set_role("gone", Role.STAFF, by=None)

    play(scene)


def test_two_administrators_who_demote_each_other_at_once_leave_one(play: Play) -> None:
    async def scene(office: Office) -> None:
        await office.identity.create_superuser(username="one", password="Zawadi-2026")
        await office.identity.create_superuser(username="two", password="Zawadi-2026")
        results = await asyncio.gather(
            office.identity.set_role("one", Role.STAFF, by=None),
            office.identity.set_role("two", Role.STAFF, by=None),
            return_exceptions=True,
        )
        assert sorted(isinstance(result, LastAdmin) for result in results) == [False, True]

    play(scene)
