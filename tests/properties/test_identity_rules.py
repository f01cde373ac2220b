"""The rules for accounts, passwords and apps hold for whatever anybody types."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from savannah.domain import clients, identity, passwords
from savannah.domain.access import Role, Scope
from savannah.domain.clients import AppRequest, Client, ClientType, GrantType
from savannah.domain.common_passwords import COMMON_PASSWORDS
from savannah.domain.errors import Invalid, Problems, Refused
from savannah.domain.identity import Registration, User, UserId

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.binary(max_size=8),
    st.text(alphabet=st.characters(), max_size=20),  # lone surrogates among them
    st.lists(st.text(max_size=5), max_size=3),
)
URIS = st.one_of(
    JUNK,
    st.from_regex(r"[a-z.]{1,12}:(//)?[a-z0-9.\[\]:@*#%/]{0,20}", fullmatch=True),
    st.builds(
        "{}://{}{}".format,
        st.sampled_from(["http", "https", "HTTP", "ftp", "com.example.app", "javascript"]),
        st.sampled_from(["127.0.0.1", "[::1]", "localhost", "example.com", "[", "a@b", "", "*"]),
        st.sampled_from(["", "/", ":8080/cb", ":99999/", ":x", "/cb?x=1", "#", "/a b", "/\\"]),
    ),
)


def faults(password: str, *, username: str = "johndoe", email: str | None = None) -> set[str]:
    found = passwords.password_faults(password, username=username, email=email)
    return {refused.code for refused in found}


def refusal(rule: Callable[[object], object], value: object) -> str | None:
    try:
        rule(value)
    except Refused as refused:
        return refused.code
    return None


def problems_of(rules: Callable[[], object]) -> set[tuple[str, str]]:
    try:
        rules()
    except Invalid as invalid:
        return field_codes(invalid)
    return set()


def field_codes(invalid: Invalid) -> set[tuple[str, str]]:
    return {(problem.field, problem.code) for problem in invalid.problems}


# --- every rule is total --------------------------------------------------------------------------


@given(value=st.one_of(JUNK, URIS))
def test_a_rule_gives_a_value_or_a_refusal_with_a_code_whatever_it_is_given(value: object) -> None:
    rules: list[Callable[[object], object]] = [
        identity.username_rule,
        identity.person_name,
        identity.optional_email,
        passwords.password_text,
        clients.redirect_uri,
        clients.scope_name,
    ]
    for rule in rules:
        assert refusal(rule, value) != ""


FORM = st.fixed_dictionaries(
    {"username": JUNK, "password": JUNK},
    optional=dict.fromkeys(("email", "confirm_password", "first_name", "last_name"), JUNK),
)


@given(form=FORM)
def test_a_registration_is_checked_to_the_end_whatever_is_typed(form: dict[str, Any]) -> None:
    problems = Problems()
    typed = Registration.check(problems, **form)
    if not problems_of(problems.raise_if_any):
        assert 3 <= len(typed.username) <= 150
        assert 8 <= len(typed.password) <= 128


@given(name=JUNK, kind=JUNK, uris=st.lists(URIS, max_size=3) | JUNK, scopes=JUNK, grants=JUNK)
def test_an_app_request_is_parsed_or_invalid_whatever_is_typed(
    name: object, kind: object, uris: object, scopes: object, grants: object
) -> None:
    def parse() -> None:
        asked = AppRequest.parse(
            name=name, client_type=kind, redirect_uris=uris, scopes=scopes, grant_types=grants
        )
        assert 1 <= len(asked.name) <= 100
        assert asked.grant_types

    assert all(code for _, code in problems_of(parse))


@given(changes=st.dictionaries(st.sampled_from(["role", "email", "id", "x", "is_active"]), JUNK))
def test_changes_to_an_account_are_made_or_invalid_whatever_they_are(
    changes: dict[str, object],
) -> None:
    def change(how: Callable[[dict[str, object]], tuple[User, tuple[str, ...]]]) -> None:
        after, changed = how(changes)
        assert set(changed) <= set(changes)
        assert (after == john()) == (not changed)

    for how in (john().updated, john().administered):
        assert {field for field, _ in problems_of(partial(change, how))} <= set(changes)


# --- user names -----------------------------------------------------------------------------------


@given(name=st.from_regex(r"[A-Za-z0-9@.+_-]{3,150}", fullmatch=True))
def test_a_user_name_of_allowed_symbols_is_kept_as_typed(name: str) -> None:
    assert identity.username_rule(name) == name
    assert identity.username_rule(f" {name}\n") == name


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("jo", "too_short"),
        ("j" * 151, "too_long"),
        ("john doe", "invalid_format"),
        ("jöhn", "invalid_format"),
        ("john/doe", "invalid_format"),
        ("john\x00doe", "invalid_format"),
        ("  ", "blank"),
        (7, "wrong_type"),
    ],
)
def test_other_user_names_are_refused_with_the_reason(typed: object, code: str) -> None:
    assert refusal(identity.username_rule, typed) == code


@given(typed=st.text(alphabet=st.characters()))
def test_a_login_is_looked_up_without_outer_blanks_and_never_with_control_characters(
    typed: str,
) -> None:
    name = identity.login_name(typed)
    assert name == identity.login_name(name) == name.strip()
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in name)


def test_a_password_is_no_pile_of_marks() -> None:
    pile = "Ab1!" + "\u0301\u0316" * 20
    assert refusal(passwords.password_text, pile) == "invalid_format"
    assert passwords.typed_password(pile) == pile


def test_names_of_people_may_be_empty_but_not_null() -> None:
    assert identity.person_name("  ") == ""
    assert identity.person_name(" Zawadi ") == "Zawadi"
    assert refusal(identity.person_name, None) == "null_not_allowed"
    assert refusal(identity.person_name, "z" * 151) == "too_long"


# --- passwords ------------------------------------------------------------------------------------


def test_the_password_of_the_walk_through_is_accepted() -> None:
    assert faults("securepassword123", username="johndoe", email="john@example.com") == set()


@example(password="Ab1!" + "x" * 3)
@example(password="Ab1!" + "x" * 4)
@example(password="Ab1!" + "\u0065\u0301" * 124)
@example(password="Ab1!" + "\u0065\u0301" * 125)
@given(password=st.text())
def test_length_is_counted_in_characters_after_normalisation_and_nothing_is_trimmed(
    password: str,
) -> None:
    text = passwords.password_text(password) if password else ""
    assert text == unicodedata.normalize("NFC", password) == passwords.typed_password(password)
    assert ("password_too_short" in faults(text)) == (len(text) < 8)
    assert ("too_long" in faults(text)) == (len(text) > 128)


@given(password=st.text(alphabet="abcXYZ019!é ", min_size=8, max_size=128))
def test_a_password_needs_two_kinds_of_characters(password: str) -> None:
    kinds = {
        "lower" if c.islower() else "upper" if c.isupper() else "digit" if c.isdigit() else "other"
        for c in password
    }
    assert ("password_too_simple" in faults(password, username="xyzzy")) == (len(kinds) < 2)


@given(common=st.sampled_from(sorted(COMMON_PASSWORDS)))
def test_a_common_password_is_refused_in_any_case(common: str) -> None:
    assert "password_too_common" in faults(common, username="zawadi")
    assert "password_too_common" in faults(common.upper(), username="zawadi")


def test_the_list_holds_what_it_promises_and_not_the_password_of_the_walk_through() -> None:
    assert len(COMMON_PASSWORDS) > 500
    assert all(len(word) >= 8 and word == word.casefold() for word in COMMON_PASSWORDS)
    assert {"password", "12345678", "qwerty123", "password123", "iloveyou"} <= COMMON_PASSWORDS
    assert "securepassword123" not in COMMON_PASSWORDS


@given(
    name=st.from_regex(r"[A-Za-z0-9]{4,12}", fullmatch=True),
    before=st.text(alphabet="xy!", max_size=5),
    after=st.text(alphabet="xy!", max_size=5),
)
def test_a_password_with_the_user_name_or_the_mailbox_in_it_is_too_similar(
    name: str, before: str, after: str
) -> None:
    password = before + name.swapcase() + after
    assert "password_too_similar" in faults(password, username=name)
    assert "password_too_similar" in faults(password, username="other", email=f"{name}@x.ke")


def test_names_shorter_than_four_are_not_looked_for() -> None:
    assert "password_too_similar" not in faults("Bob4ever!", username="bob", email="bob@x.ke")


@example(value="\ud800password1")
@given(value=st.text(alphabet=st.characters(categories=["Cs"]), min_size=1))
def test_a_password_no_encoding_can_carry_is_refused(value: str) -> None:
    assert refusal(passwords.password_text, value) == "invalid_format"


def test_an_empty_password_is_too_short_and_says_nothing_else() -> None:
    problems = Problems()
    assert (
        passwords.new_password(problems, "password", "", "x", username="johndoe", email=None) == ""
    )
    with pytest.raises(Invalid) as caught:
        problems.raise_if_any()
    assert field_codes(caught.value) == {("password", "password_too_short")}


def test_the_second_typing_must_be_the_same_after_normalisation() -> None:
    def check(again: object) -> set[tuple[str, str]]:
        problems = Problems()
        passwords.new_password(
            problems, "password", "Caf\u00e9 ol\u00e9 1", again, username="johndoe", email=None
        )
        return problems_of(problems.raise_if_any)

    assert check(None) == check("Cafe\u0301 ole\u0301 1") == set()
    assert check("Caf\u00e9 ol\u00e9 1 ") == {("confirm_password", "password_mismatch")}
    assert check(5) == {("confirm_password", "wrong_type")}


def test_a_registration_tells_every_problem_at_once() -> None:
    problems = Problems()
    Registration.check(
        problems,
        username="jo",
        email="nowhere",
        password="abc",
        confirm_password="abd",
        first_name="j" * 151,
        last_name=None,
    )
    with pytest.raises(Invalid) as caught:
        problems.raise_if_any()
    assert field_codes(caught.value) == {
        ("username", "too_short"),
        ("email", "invalid_email"),
        ("password", "password_too_short"),
        ("password", "password_too_simple"),
        ("confirm_password", "password_mismatch"),
        ("first_name", "too_long"),
        ("last_name", "null_not_allowed"),
    }


def test_a_password_is_never_shown() -> None:
    typed = Registration.check(Problems(), username="johndoe", password="securepassword123")
    assert "securepassword123" not in repr(typed)


# --- apps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "https://app.example.com/cb",
        "https://app.example.com:8443/cb?tenant=1",
        "https://[2001:db8::1]/cb",
        "HTTPS://app.example.com/cb",
        "http://127.0.0.1/cb",
        "http://127.0.0.1:51004/cb",
        "http://[::1]:8080/",
        "http://localhost:3000",
        "http://LOCALHOST/cb",
        "com.example.app:/cb",
        "com.example.app://cb/done",
    ],
)
def test_a_redirect_uri_that_leads_to_one_app_is_kept_as_typed(uri: str) -> None:
    assert clients.redirect_uri(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/cb",
        "app.example.com/cb",
        "http://app.example.com/cb",
        "http://127.0.0.1.evil.example/cb",
        "http://127.0.0.2/cb",
        "http://localhost.evil.example/cb",
        "http://localhost@evil.example/cb",
        "https://user@example.com/cb",
        "https://user:pw@example.com/cb",
        "https://example.com/cb#part",
        "https://example.com/cb#",
        "https://*.example.com/cb",
        "https://example.com/*",
        "https://example.com:99999/cb",
        "https://example.com:x/cb",
        "https:///cb",
        "https:/cb",
        "https:cb",
        "https://:443/cb",
        "https://[::1/cb",
        "https://exa mple.com/cb",
        " https://example.com/cb",
        "https://example.com/cb\n",
        "https://example.com\\@evil.example/",
        "https://exämple.com/cb",
        "myapp:/cb",
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "com.example.app://user@cb",
        "https://example.com/" + "a" * 2000,
    ],
)
def test_any_other_redirect_uri_is_refused(uri: str) -> None:
    assert refusal(clients.redirect_uri, uri) == "invalid_redirect_uri"


@given(uri=URIS)
def test_an_accepted_redirect_uri_never_hides_where_it_leads(uri: object) -> None:
    if refusal(clients.redirect_uri, uri) is None:
        assert isinstance(uri, str)
        assert uri.isascii()
        assert not set(uri) & set("#*\\ \t\r\n\x00")
        parts = urlsplit(uri)
        assert "@" not in parts.netloc
        assert parts.scheme == "https" or "." in parts.scheme or parts.hostname in LOOPBACK


def test_an_app_that_names_nothing_gets_the_usual_grants_and_no_choice_of_scopes() -> None:
    assert AppRequest.parse(name=" My Mobile App ") == AppRequest(
        name="My Mobile App",
        client_type=ClientType.CONFIDENTIAL,
        redirect_uris=(),
        scopes=None,
        grant_types=(GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN),
        first_party=False,
    )


def test_aliases_of_scopes_are_spelled_out_and_repetitions_dropped() -> None:
    asked = AppRequest.parse(
        name="Till",
        scopes=["read", "openid", "orders:read"],
        redirect_uris=["com.example.app:/a", "com.example.app:/a"],
        grant_types=["refresh_token", "authorization_code", "refresh_token"],
    )
    reads = [scope.value for scope in Scope if scope.endswith(":read")]
    assert asked.scopes == frozenset(["openid", *reads])
    assert asked.redirect_uris == ("com.example.app:/a",)
    assert asked.grant_types == (GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN)
    assert not asked.for_machines


def test_an_app_request_names_every_broken_member() -> None:
    with pytest.raises(Invalid) as caught:
        AppRequest.parse(
            name="",
            client_type="secret",
            redirect_uris=["https://ok.example/", "http://no.example/", 5],
            scopes=["orders:read", "orders:fly", 7],
            grant_types=["password", "implicit"],
        )
    assert field_codes(caught.value) == {
        ("name", "blank"),
        ("client_type", "invalid_choice"),
        ("redirect_uris/1", "invalid_redirect_uri"),
        ("redirect_uris/2", "wrong_type"),
        ("scopes/1", "invalid_choice"),
        ("scopes/2", "wrong_type"),
        ("grant_types/0", "invalid_choice"),
        ("grant_types/1", "invalid_choice"),
    }


def test_lists_of_an_app_request_are_lists_and_grants_are_not_none_at_all() -> None:
    with pytest.raises(Invalid) as caught:
        AppRequest.parse(
            name="x", redirect_uris="https://a.example/", scopes="read", grant_types=[]
        )
    assert field_codes(caught.value) == {
        ("redirect_uris", "wrong_type"),
        ("scopes", "wrong_type"),
        ("grant_types", "too_short"),
    }


def test_a_public_app_gets_no_tokens_of_its_own() -> None:
    with pytest.raises(Invalid) as caught:
        AppRequest.parse(name="x", client_type="public", grant_types=["client_credentials"])
    assert field_codes(caught.value) == {("grant_types", "invalid_choice")}


def client(kind: ClientType, *digests: str) -> Client:
    return Client(
        id=UUID(int=1),
        client_id="abc",
        name="Till",
        client_type=kind,
        secret_digests=digests,
        redirect_uris=(),
        grant_types=(),
        scopes=frozenset(),
        first_party=True,
        created_at=NOW,
    )


@given(secret=st.text(alphabet=st.characters(), min_size=1), other=st.text(min_size=1))
def test_a_secret_fits_its_own_app_alone_also_while_it_is_rotated(secret: str, other: str) -> None:
    app = client(ClientType.CONFIDENTIAL, identity.digest("previous"), identity.digest(secret))
    assert app.accepts_secret(secret)
    assert app.accepts_secret("previous")
    assert app.accepts_secret(other) == (other in (secret, "previous"))
    assert not app.accepts_secret(None)
    assert not app.accepts_secret("")


def test_a_public_app_shows_no_secret() -> None:
    app = client(ClientType.PUBLIC)
    assert app.accepts_secret(None)
    assert app.accepts_secret("")
    assert not app.accepts_secret("anything")


# --- changes to accounts --------------------------------------------------------------------------


def john() -> User:
    return User(
        id=UserId(UUID(int=7)),
        username="johndoe",
        email="john@example.com",
        first_name="John",
        last_name="Doe",
        role=Role.STAFF,
        password_hash="$argon2id$",
        date_joined=NOW,
    )


def test_people_change_their_names_and_address_and_nothing_else() -> None:
    after, changed = john().updated({"first_name": " Jane ", "last_name": "Doe", "email": None})
    assert (after.first_name, after.last_name, after.email) == ("Jane", "Doe", None)
    assert changed == ("first_name", "email")
    with pytest.raises(Invalid) as caught:
        john().updated({"role": "admin", "nick": "J", "password_hash": "x", "first_name": None})
    assert field_codes(caught.value) == {
        ("role", "read_only_field"),
        ("nick", "unknown_field"),
        ("password_hash", "unknown_field"),
        ("first_name", "null_not_allowed"),
    }


def test_administrators_decide_role_and_activity_and_nothing_else() -> None:
    after, changed = john().administered({"role": "admin", "is_active": False})
    assert (after.role, after.is_active, changed) == (Role.ADMIN, False, ("role", "is_active"))
    assert john().administered({"role": Role.STAFF, "is_active": True}) == (john(), ())
    with pytest.raises(Invalid) as caught:
        john().administered({"role": None, "is_active": None, "email": "a@b.ke"})
    assert field_codes(caught.value) == {
        ("role", "null_not_allowed"),
        ("is_active", "null_not_allowed"),
        ("email", "read_only_field"),
    }
    with pytest.raises(Invalid) as caught:
        john().administered({"role": "boss", "is_active": 1})
    assert field_codes(caught.value) == {("role", "invalid_choice"), ("is_active", "wrong_type")}


def test_only_an_active_administrator_counts_as_one() -> None:
    admin, _ = john().administered({"role": "admin"})
    gone, _ = admin.administered({"is_active": False})
    assert [user.is_active_admin for user in (john(), admin, gone)] == [False, True, False]
