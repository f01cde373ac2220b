"""Whatever strangers send: never a failure of ours, never a redirect elsewhere, nothing echoed."""

from urllib.parse import urlencode, urlsplit

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from relying_party import CALLBACK, new_app, register

NAMES = st.sampled_from(
    [
        "client_id",
        "redirect_uri",
        "response_type",
        "response_mode",
        "scope",
        "state",
        "nonce",
        "prompt",
        "max_age",
        "code_challenge",
        "code_challenge_method",
        "request",
        "request_uri",
        "registration",
        "id_token_hint",
        "login_hint",
        "ui_locales",
        "resource",
        "claims",
        "ticket",
        "csrf",
        "username",
        "password",
        "decision",
        "grant_type",
        "code",
        "code_verifier",
        "refresh_token",
        "token",
        "client_secret",
        "client_assertion",
        "access_token",
        "client_assertion_type",
        "post_logout_redirect_uri",
    ]
)
MARK = "zq9zq"
TEXT = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "",
            "none",
            "code",
            "S256",
            "x" * 43,
            "authorization_code",
            "refresh_token",
            "client_credentials",
            "urn:ietf:params:oauth:request_uri:x",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "https://evil.example/",
            "//evil.example",
            "e30.e30.e30",
            "rt_x",
            "\r\nLocation: https://evil.example/",
            '"><script>',
            "\x00",
            "\u202e",
        ]
    ),
).map(lambda text: text + MARK if len(text) % 3 == 2 else text)
PAIRS = st.lists(st.tuples(NAMES, TEXT), max_size=12)
PRINTED = st.characters(exclude_categories=("C", "Z")) | st.just(" ")
FORM = "application/x-www-form-urlencoded"
HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40) | st.sampled_from(
    [
        "application/json",
        "multipart/form-data; boundary=x",
        "text/plain; charset=utf-7",
        f"{FORM};;",
    ]
)
RAW = st.binary(max_size=200)
BROWSER_PATHS = ("authorize", "continue", "logout")
FORM_PATHS = ("authorize", "login", "consent", "logout", "logout/confirm")
CLIENT_PATHS = ("token", "introspect", "revoke", "par", "userinfo")
QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def app(desk):
    register(desk)
    return new_app(desk)


def encoded(pairs):
    return urlencode(pairs, errors="surrogatepass")


def is_harmless(answer, *, api):
    assert answer.status_code < 500, answer.text
    location = answer.headers.get("location")
    if location is not None:
        home = location.startswith(("/oauth/", CALLBACK))
        assert home, location
        assert "\r" not in location
    if api:
        assert answer.headers["content-type"] == "application/json"
        assert MARK not in answer.text
        if answer.status_code >= 400:
            assert set(answer.json()) <= {"error", "error_description"}
    elif location is None:
        assert "<script>" not in answer.text
        if answer.status_code >= 400 and 'name="ticket"' not in answer.text:
            assert MARK not in answer.text


def send(desk, app, method, path, **more):
    client = app.browser.client
    client.cookies.clear()
    return desk.run(client.send(client.build_request(method, f"/oauth/{path}", **more)))


@QUICK
@given(path=st.sampled_from(BROWSER_PATHS), pairs=PAIRS, known=st.booleans())
def test_any_query_at_the_pages_is_harmless(desk, app, path, pairs, known):
    kept = list(app.request().items()) if known else []
    query = encoded([pair for pair in kept if pair[0] not in dict(pairs)] + pairs)
    is_harmless(send(desk, app, "GET", f"{path}?{query}"), api=False)


@QUICK
@given(path=st.sampled_from(FORM_PATHS), pairs=PAIRS)
def test_any_form_at_the_pages_is_harmless(desk, app, path, pairs):
    body = encoded(pairs)
    headers = {"Content-Type": FORM}
    is_harmless(send(desk, app, "POST", path, content=body, headers=headers), api=False)


@QUICK
@given(path=st.sampled_from(CLIENT_PATHS), pairs=PAIRS, authenticated=st.booleans())
def test_any_form_at_the_endpoints_of_clients_is_harmless(desk, app, path, pairs, authenticated):
    if authenticated:
        own = {"client_id": app.client_id, "client_secret": app.secret}
        pairs = [pair for pair in pairs if pair[0] not in own] + list(own.items())
    answer = send(desk, app, "POST", path, content=encoded(pairs), headers={"Content-Type": FORM})
    is_harmless(answer, api=True)


@QUICK
@given(path=st.sampled_from((*CLIENT_PATHS, *FORM_PATHS)), body=RAW, kind=HEADER)
def test_any_bytes_are_harmless(desk, app, path, body, kind):
    for header in (FORM, kind):
        answer = send(desk, app, "POST", path, content=body, headers={"Content-Type": header})
        is_harmless(answer, api=path in CLIENT_PATHS)


@QUICK
@given(
    scheme=st.sampled_from(["Basic", "Bearer", "DPoP", "Digest", ""]),
    value=st.one_of(RAW, st.text(max_size=60).map(lambda text: text.encode())),
)
def test_any_authorization_header_is_harmless(desk, app, scheme, value):
    clean = bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F)
    headers = [(b"Authorization", scheme.encode() + b" " + clean), (b"DPoP", clean)]
    for path in ("userinfo", "token"):
        answer = send(
            desk, app, "POST", path, data={"grant_type": "client_credentials"}, headers=headers
        )
        is_harmless(answer, api=True)


@given(uri=st.one_of(st.text(max_size=60), TEXT))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_address_but_the_registered_one_is_ever_gone_to(desk, app, uri):
    assume(uri != CALLBACK)
    query = encoded({**app.request(), "redirect_uri": uri})
    answer = send(desk, app, "GET", f"authorize?{query}")
    assert answer.status_code == 400
    assert "location" not in answer.headers


@given(extra=st.text(alphabet=st.characters(codec="ascii"), min_size=1, max_size=20))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_address_that_begins_or_ends_like_the_registered_one_is_another(desk, app, extra):
    for uri in (CALLBACK + extra, extra + CALLBACK):
        answer = send(
            desk, app, "GET", f"authorize?{encoded({**app.request(), 'redirect_uri': uri})}"
        )
        assert answer.status_code == 400
        assert urlsplit(answer.headers.get("location", "")).netloc == ""


@given(state=st.text(PRINTED, min_size=1, max_size=60))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_state_comes_back_letter_for_letter(desk, app, state):
    asked = encoded({**app.request(), "state": state, "prompt": "none"})
    answer = send(desk, app, "GET", f"authorize?{asked}")
    assert app.returned(answer)["state"] == state
