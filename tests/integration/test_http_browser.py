"""The provider's pages as browsers meet them: logging in, consenting, logging out."""

import re
from datetime import timedelta
from urllib.parse import urlencode

import pytest

from relying_party import (
    CALLBACK,
    PASSWORD,
    Browser,
    Form,
    challenge,
    is_consent,
    is_login,
    new_app,
    register,
)
from savannah.adapters.memory import MemoryStorage
from savannah.domain.notification_policy import Rate
from savannah.entrypoints.http import pages

SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)


@pytest.fixture
def op(desk):
    register(desk)
    return desk


@pytest.fixture
def app(op):
    return new_app(op)


def is_page(answer, status, *words):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "location" not in answer.headers
    for word in words:
        assert word in answer.text
    return answer


# --- the pages themselves ------------------------------------------------------------------------


@pytest.mark.parametrize(("language", "word"), [("en", "Log in"), ("sw-TZ,en;q=0.5", "Ingia")])
def test_the_login_page_speaks_the_language_of_the_browser(op, app, language, word):
    app.browser = Browser(op, language=language)
    page = is_page(app.authorize(), 200, word)
    form = Form(page.text)
    assert form.lang == language[:2]
    assert form.labelled == {"username", "password"}
    assert form.scripts == 0
    again = app.browser.send(page, username="johndoe", password="wrong")
    assert Form(is_page(again, 400).text).lang == language[:2]
    consent = app.browser.send(again, username="johndoe", password=PASSWORD)
    assert Form(is_page(consent, 200).text).lang == language[:2]


@pytest.mark.parametrize(
    ("ui_locales", "accepted", "chosen"),
    [
        (None, "", "en"),
        (None, "fr, sw;q=0.8, en;q=0.9", "en"),
        (None, "sw;q=x, SW-KE;q=0.1", "sw"),
        (None, "sw;q=0", "en"),
        ("sw en", "en", "sw"),
        ("xx", "sw", "sw"),
    ],
)
def test_a_language_is_chosen_among_those_we_have(ui_locales, accepted, chosen):
    assert pages.choose_language(ui_locales, accepted) == chosen


def test_every_text_exists_in_both_languages():
    for key, texts in pages._TEXTS.items():
        assert len(texts) == len(pages.LANGUAGES), key
        assert re.findall(r"\{\w+\}", texts[0]) == re.findall(r"\{\w+\}", texts[1]), key
        assert texts[0] != texts[1] or key == "scope:webhooks:manage"


def test_names_of_apps_and_typed_names_cannot_become_markup(op, app):
    page = app.authorize(login_hint='"><script>alert(1)</script>')
    assert "My &lt;App&gt; &amp; Co" in page.text
    assert "<script" not in page.text
    again = app.browser.send(page, username="'\"><b>x", password="{username}")
    is_page(again, 400)
    assert "<b>" not in again.text


def test_the_policy_lets_forms_go_on_to_the_app_and_nowhere_else(op, app):
    policy = app.authorize().headers["content-security-policy"]
    assert "form-action 'self' https://app.example;" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    native = new_app(op, client_type="public", redirect_uris=["com.example.app://x;script-src"])
    page = native.authorize(code_challenge=challenge(), code_challenge_method="S256")
    assert "form-action 'self' com.example.app:;" in page.headers["content-security-policy"]


def test_consent_names_app_person_scopes_and_where_it_goes_on(op, app):
    page = app.browser.send(
        app.authorize(scope="openid email orders:write"), username="johndoe", password=PASSWORD
    )
    is_page(
        page,
        200,
        "My &lt;App&gt; &amp; Co",
        "johndoe",
        "see your e-mail address",
        "add and change orders",
        "app.example",
    )


# --- logging in ----------------------------------------------------------------------------------


def test_a_login_gets_a_new_cookie_that_scripts_and_other_sites_do_not_get(op, app):
    page = app.authorize()
    before = app.browser.client.cookies["savannah"]
    app.browser.send(page, username="johndoe", password=PASSWORD)
    after = app.browser.client.cookies["savannah"]
    assert before != after
    first = page.headers["set-cookie"].lower()
    assert {"httponly", "samesite=lax", "path=/"} <= {part.strip() for part in first.split(";")}


def test_authorization_requests_have_a_limit_per_address(open_desk):
    """Each one of somebody who has consented leaves a grant."""
    desk = open_desk(rate_limit=Rate(6, MINUTE))
    register(desk)
    app = new_app(desk)
    app.through(app.authorize())
    silent = [app.authorize(prompt="none").status_code for _ in range(5)]
    assert silent[-1] == 429
    assert set(silent) == {303, 429}
    desk.clock.advance(MINUTE)
    assert app.authorize(prompt="none").status_code == 303


def test_the_name_of_an_app_does_not_turn_the_words_around_it(op):
    app = new_app(op, name="Rider\u202e\u2069 \u2067<b>")
    for page in (
        app.authorize(),
        app.browser.send(app.authorize(), username="johndoe", password=PASSWORD),
    ):
        assert "Rider &lt;b&gt;" in page.text
        assert not set(page.text) & set("\u202e\u2069\u2067")


def test_cookies_are_read_as_they_are(op, app):
    """Unquoting those of strangers would cost the square of their length."""
    app.through(app.authorize())
    value = app.browser.client.cookies["savannah"]
    asked = f"/oauth/authorize?{urlencode(app.request(prompt='none'))}"

    def is_known(cookie):
        answer = op.get(asked, headers={"Cookie": cookie})
        return "code=" in answer.headers["location"]

    assert is_known(f'x="\\"y; a=b;savannah={value} ; z')
    assert not is_known(f'savannah="{value}"')
    assert not is_known(f"xsavannah={value}; savannah")


def test_behind_https_the_cookie_is_this_hosts_alone(secure_desk):
    register(secure_desk)
    app = new_app(secure_desk)
    cookie = app.authorize().headers["set-cookie"]
    assert cookie.startswith("__Host-savannah=")
    assert "secure" in cookie.lower()
    assert "domain" not in cookie.lower()


def test_a_wrong_password_and_an_unknown_user_look_the_same(op, app):
    pages_ = [
        app.browser.send(app.authorize(), username=name, password="wrong-one")
        for name in ("johndoe", "nobody0")
    ]
    one, two = (re.sub(r'name="ticket" value="[^"]*"', "", page.text) for page in pages_)
    assert one == two.replace("nobody0", "johndoe")
    assert "Wrong user name or password." in one


def test_the_lock_is_the_one_of_the_password_door(open_desk):
    desk = open_desk(rate_limit_auth=None)
    register(desk)
    app, till = new_app(desk), new_app(desk, first_party=True)
    page = app.authorize()
    for _ in range(5):
        page = app.browser.send(page, username="johndoe", password="wrong")
    locked = app.browser.send(page, username="JohnDoe", password=PASSWORD)
    is_page(locked, 429, "Too many failed attempts")
    assert int(locked.headers["retry-after"]) > 0
    body = {"username": "johndoe", "password": PASSWORD}
    more = {"client_id": till.client_id, "client_secret": till.secret}
    door = desk.run(app.browser.client.post("/api/auth/login/", json={**body, **more}))
    assert door.status_code == 429


def test_who_is_disabled_is_told_so_after_the_right_password_only(op, app):
    op.run(op.identity.accounts.set_active("johndoe", active=False, by=None))
    page = app.authorize()
    is_page(app.browser.send(page, username="johndoe", password="wrong"), 400)
    is_page(app.browser.send(page, username="johndoe", password=PASSWORD), 403, "disabled")


def test_logins_are_limited_by_address(open_desk):
    desk = open_desk(rate_limit_auth=Rate(2, MINUTE))
    register(desk)
    app = new_app(desk)
    page = app.authorize()
    for _ in range(2):
        page = app.browser.send(page, username="johndoe", password="wrong")
    is_page(app.browser.send(page, username="johndoe", password=PASSWORD), 429)


def test_a_form_that_does_not_come_from_our_page_logs_nobody_in(op, app):
    page = app.authorize()
    other = Browser(op)
    stolen = other.send(page, username="johndoe", password=PASSWORD)
    is_page(stolen, 400, "once more")
    wrong = app.browser.send(page, username="johndoe", password=PASSWORD, csrf="x")
    is_page(wrong, 400, "once more")
    assert app.returned(app.authorize(prompt="none"))["error"] == "login_required"
    assert is_consent(app.browser.send(wrong, username="johndoe", password=PASSWORD))


def test_a_page_that_was_left_open_too_long_starts_anew(op, app):
    page = app.authorize()
    op.clock.advance(30 * MINUTE + SECOND)
    is_page(app.browser.send(page, username="johndoe", password=PASSWORD), 400, "too old")
    right = Form(app.authorize().text).fields["ticket"]
    body, seal = right.split(".")
    for ticket in ("", "x", "a.b", "a.b.c", "%%%.x", f"{seal}.{body}", f"{body}AAAA.{seal}"):
        page = app.authorize()
        forged = app.browser.send(page, username="johndoe", password=PASSWORD, ticket=ticket)
        is_page(forged, 400)
        is_page(app.browser.get(f"/oauth/continue?{urlencode({'ticket': ticket})}"), 400)


def test_a_session_ends_by_itself(op, app):
    app.tokens()
    op.clock.advance(14 * DAY)
    assert app.returned(app.authorize(prompt="none"))["error"] == "login_required"


def test_nobody_is_logged_in_whose_account_is_gone(op, app):
    app.tokens()
    op.run(op.identity.accounts.set_active("johndoe", active=False, by=None))
    op.run(op.identity.accounts.set_active("johndoe", active=True, by=None))
    assert app.returned(app.authorize(prompt="none"))["error"] == "login_required"


def test_somebody_else_ends_the_former_session(op, app):
    register(op, "jane")
    notified = new_app(op, metadata={"backchannel_logout_uri": "https://app.example/out"})
    notified.browser = app.browser
    first = notified.tokens()
    page = notified.authorize(prompt="login")
    returned = notified.through(page, username="jane")
    second = notified.id_claims(notified.redeem(returned["code"]).json(), nonce="n" * 43)
    assert second["sub"] != first["claims"]["sub"]
    assert second["sid"] != first["claims"]["sid"]
    assert notified.userinfo(first["access_token"]).status_code == 401
    assert op.run(op.identity.sessions.deliver_notices()) == 1


def test_a_hint_at_somebody_else_asks_for_that_person(op, app):
    register(op, "jane")
    hint = app.tokens()["id_token"]
    other = app_of_jane(op, app)
    returned = other.returned(other.authorize(prompt="none", id_token_hint=hint))
    assert returned["error"] == "login_required"
    page = other.authorize(id_token_hint=hint)
    assert is_login(page)
    wrong = other.through(page, username="jane")
    assert wrong["error"] == "login_required"
    right = other.through(other.authorize(id_token_hint=hint), username="johndoe")
    assert "code" in right
    assert other.through(other.authorize(id_token_hint="x"))["error"] == "invalid_request"


def app_of_jane(op, app):
    other = new_app(op)
    other.browser = Browser(op)
    other.through(other.authorize(), username="jane")
    return other


def test_select_account_and_max_age_0_ask_for_a_login(op, app):
    app.tokens()
    for asked in ({"prompt": "select_account"}, {"max_age": "0"}):
        page = app.authorize(**asked)
        assert is_login(page)
        assert "code" in app.through(page)


# --- consent -------------------------------------------------------------------------------------


def test_consent_is_remembered_until_more_is_asked(op, app):
    app.tokens(scope="openid email")
    assert "code" in app.returned(app.authorize(scope="openid email"))
    assert "code" in app.returned(app.authorize(scope="openid", prompt="none"))
    more = {"scope": "openid orders:read"}
    assert app.returned(app.authorize(**more, prompt="none"))["error"] == "consent_required"
    assert is_consent(app.authorize(**more))
    assert "code" in app.through(app.authorize(**more))
    assert "code" in app.returned(app.authorize(scope="openid email orders:read"))
    assert is_consent(app.authorize(prompt="consent"))


def test_a_refusal_goes_back_to_the_app_and_is_not_remembered(op, app):
    returned = app.through(app.authorize(), allow=False)
    assert returned["error"] == "access_denied"
    assert returned["state"] == "s" * 128
    assert is_consent(app.authorize())


def test_our_own_apps_need_not_ask(op):
    ours = new_app(op, metadata={"skip_consent": True})
    page = ours.authorize()
    answer = ours.browser.send(page, username="johndoe", password=PASSWORD)
    assert "code" in ours.returned(answer)
    assert is_consent(ours.authorize(prompt="consent"))


def test_a_forged_consent_is_asked_again(op, app):
    page = app.browser.send(app.authorize(), username="johndoe", password=PASSWORD)
    forged = app.browser.send(page, decision="allow", csrf="x")
    assert forged.status_code == 400
    assert 'name="decision"' in forged.text
    assert is_login(Browser(op).post("/oauth/login", data=Form(page.text).fields)) is False
    stranger = Browser(op)
    register(op, "jane")
    other = new_app(op)
    other.browser = stranger
    other.through(other.authorize(), username="jane")
    fields = Form(page.text).fields
    cookie = stranger.client.cookies["savannah"]
    csrf = op.identity.sessions.csrf_token(cookie)
    # Another person's browser gets the question itself, and does not answer for the first one.
    asked = stranger.post("/oauth/consent", data={**fields, "csrf": csrf, "decision": "allow"})
    assert is_consent(asked)
    assert "jane" in asked.text


def test_a_consent_without_a_login_asks_for_one(op, app):
    page = app.browser.send(app.authorize(), username="johndoe", password=PASSWORD)
    app.browser.forget()
    again = app.browser.send(page, decision="allow")
    assert again.status_code == 400
    assert 'name="password"' in again.text


def test_a_forged_consent_that_was_given_meanwhile_goes_on(op, app):
    page = app.browser.send(app.authorize(), username="johndoe", password=PASSWORD)
    app.browser.send(page, decision="allow")
    assert "code" in app.returned(app.browser.send(page, decision="allow", csrf="x"))


def test_scopes_that_are_gone_at_the_decision_are_refused(op, app):
    from savannah.domain.access import Role

    scope = {"scope": "orders:write", "nonce": None}
    page = app.browser.send(app.authorize(**scope), username="johndoe", password=PASSWORD)
    assert is_consent(page)
    op.run(op.identity.accounts.set_role("johndoe", Role.VIEWER, by=None))
    assert app.returned(app.browser.send(page, decision="allow"))["error"] == "invalid_scope"


# --- answers -------------------------------------------------------------------------------------


def test_an_answer_by_form_leaves_nothing_in_addresses(op, app):
    page = app.authorize(response_mode="form_post")
    page = app.browser.send(page, username="johndoe", password=PASSWORD)
    answer = is_page(app.browser.send(page, decision="allow"), 200)
    form = Form(answer.text)
    assert form.action == CALLBACK
    assert set(form.fields) == {"code", "state", "iss"}
    policy = answer.headers["content-security-policy"]
    assert "form-action https://app.example;" in policy
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)[1]
    assert f'<script nonce="{nonce}">' in answer.text
    assert app.redeem(form.fields["code"]).status_code == 200
    again = app.authorize(response_mode="form_post")
    assert "code" in Form(again.text).fields
    refused = app.authorize(response_mode="form_post", prompt="none", max_age="x")
    assert Form(refused.text).fields["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"prompt": "create"}, "invalid_request"),
        ({"max_age": "-1"}, "invalid_request"),
        ({"max_age": "1.5"}, "invalid_request"),
        ({"registration": "{}"}, "registration_not_supported"),
        ({"request_uri": "urn:x"}, "request_uri_not_supported"),
        ({"code_challenge": "x" * 43}, "invalid_request"),
        ({"code_challenge": "x" * 43, "code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": "x" * 42, "code_challenge_method": "S256"}, "invalid_request"),
        ({"code_challenge": "=" * 43, "code_challenge_method": "S256"}, "invalid_request"),
        ({"code_challenge_method": "S256"}, "invalid_request"),
    ],
)
def test_a_broken_request_goes_back_to_the_app(app, changes, error):
    returned = app.returned(app.authorize(**changes))
    assert returned["error"] == error
    assert returned["state"] == "s" * 128
    assert re.fullmatch(r"[ !#-\[\]-~]+", returned["error_description"])


def test_a_scope_nobody_knows_goes_back_once_somebody_is_there(app):
    assert app.through(app.authorize(scope="nonsense"))["error"] == "invalid_scope"


def test_without_a_scope_everything_the_person_may_is_asked(op, app):
    code = app.code(scope=None)
    scope = app.redeem(code).json()["scope"]
    assert "orders:write" in scope
    assert "offline_access" not in scope


def test_clients_without_a_secret_or_an_opt_out_use_pkce(op):
    for each in (
        new_app(op, client_type="public"),
        new_app(op, metadata={"require_pkce": True}),
    ):
        assert each.returned(each.authorize())["error"] == "invalid_request"
        pkce = {"code_challenge": challenge(), "code_challenge_method": "S256"}
        assert is_login(each.authorize(**pkce))


def test_a_client_without_the_grant_gets_no_code(op):
    machine = new_app(op, grant_types=["client_credentials"])
    assert machine.returned(machine.authorize())["error"] == "unauthorized_client"


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": None},
        {"client_id": "nobody"},
        {"client_id": "\x7f"},
        {"redirect_uri": None},
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": CALLBACK.upper()},
        {"redirect_uri": CALLBACK + "#"},
        {"redirect_uri": "javascript:alert(1)"},
        {"state": "x" * 7000},
    ],
)
def test_what_cannot_be_answered_safely_gets_a_page(app, changes):
    for by in ("GET", "POST"):
        page = is_page(app.authorize(by=by, **changes), 400)
        assert "evil" not in page.text


def test_a_repeated_parameter_is_refused_where_it_is_safe(app):
    asked = urlencode(app.request())
    for name in ("client_id", "redirect_uri"):
        value = app.request()[name]
        page = app.browser.get(f"/oauth/authorize?{asked}&{urlencode({name: value})}")
        is_page(page, 400)
    returned = app.returned(app.browser.get(f"/oauth/authorize?{asked}&scope=openid"))
    assert returned["error"] == "invalid_request"
    twice = app.browser.get(f"/oauth/authorize?{asked}&state=2")
    assert "state=" not in twice.headers["location"]
    is_page(app.browser.get("/oauth/authorize?client_id=%ff"), 400)


@pytest.mark.parametrize("path", ["/oauth/authorize", "/oauth/logout"])
def test_a_posted_request_is_no_longer_than_an_address_can_be(app, path):
    for name, value in (("state", "s" * 9000), ("x" * 9000, "1")):
        sent = {**app.request(), name: value}
        answer = app.desk.run(app.browser.client.post(path, data=sent))
        is_page(answer, 400, "The request is too long")


def test_an_empty_parameter_is_none(app):
    assert is_login(app.authorize(prompt="", max_age="", code_challenge=""))


def test_apps_on_this_machine_take_any_port_when_they_have_no_secret(op):
    kept = "http://127.0.0.1:8123/back"
    native = new_app(op, client_type="public", redirect_uris=[kept, "http://[::1]/back"])
    pkce = {"code_challenge": challenge(), "code_challenge_method": "S256"}
    for asked in ("http://127.0.0.1:9/back", "http://127.0.0.1/back", "http://[::1]:80/back"):
        assert is_login(native.authorize(**pkce, redirect_uri=asked)), asked
    for asked in (
        "http://127.0.0.1:9/other",
        "http://localhost:9/back",
        "https://127.0.0.1:9/back",
        "http://127.0.0.1:9@evil.example/back",
        "http://127.0.0.1.evil.example/back",
    ):
        is_page(native.authorize(**pkce, redirect_uri=asked), 400)
    confidential = new_app(op, redirect_uris=[kept])
    is_page(confidential.authorize(redirect_uri="http://127.0.0.1:9/back"), 400)


# --- logging out ---------------------------------------------------------------------------------


def test_logging_out_asks_where_the_app_does_not_show_whose_session_it_is(op, app):
    app.tokens()
    page = is_page(app.browser.get("/oauth/logout"), 200, "Do you want to log out?")
    forged = app.browser.send(page, csrf="x")
    is_page(forged, 200, "Do you want to log out?")
    assert "code" in app.returned(app.authorize(prompt="none"))
    done = is_page(app.browser.send(page), 200, "You are logged out")
    assert 'savannah="";' in done.headers["set-cookie"].replace("savannah=;", 'savannah="";')
    is_page(app.browser.get("/oauth/logout"), 200, "You are logged out")


def test_the_hint_of_another_session_asks_and_then_goes_on_to_the_app(op):
    bye = "https://app.example/bye?x=1"
    app = new_app(op, metadata={"post_logout_redirect_uris": (bye,)})
    hint = app.tokens()["id_token"]
    app.browser = Browser(op)
    app.tokens()
    fields = {"id_token_hint": hint, "post_logout_redirect_uri": bye, "state": "1"}
    page = app.browser.post("/oauth/logout", data=fields)
    is_page(page, 200, "Do you want to log out?")
    done = app.browser.send(page)
    assert done.headers["location"] == f"{bye}&state=1"
    # Nobody is logged in any more, and the app is answered all the same.
    again = app.browser.get(f"/o/logout?{urlencode(fields)}")
    assert again.headers["location"] == f"{bye}&state=1"


def test_a_logout_request_that_contradicts_itself_is_refused(op, app):
    hint = app.tokens()["id_token"]
    for fields in (
        [("id_token_hint", hint), ("client_id", "another")],
        [("state", "1"), ("state", "2")],
        [("id_token_hint", hint), ("post_logout_redirect_uri", CALLBACK)],
    ):
        is_page(app.browser.get(f"/oauth/logout?{urlencode(fields)}"), 400)
    assert "code" in app.returned(app.authorize(prompt="none"))


def test_a_notice_that_nobody_takes_is_tried_ever_later_and_then_dropped(op):
    app = new_app(op, metadata={"backchannel_logout_uri": "https://app.example/out"})
    silent = new_app(op)
    silent.browser = app.browser
    app.tokens()
    hint = silent.tokens()["id_token"]
    app.browser.get(f"/oauth/logout?{urlencode({'id_token_hint': hint})}")
    deliver = op.identity.sessions.deliver_notices
    op.logout_sender.away = True
    assert op.run(deliver()) == 1
    assert op.run(deliver()) == 0
    for attempt in range(1, 12):
        op.clock.advance(5 * SECOND * 2 ** (attempt - 1))
        assert op.run(deliver()) == 1
    op.clock.advance(DAY)
    assert op.run(deliver()) == 0
    assert len(op.logout_sender.sent) == 12


# --- trouble -------------------------------------------------------------------------------------


class Broken(MemoryStorage):
    """Works until it is told not to."""

    error = None

    def __call__(self, **how):
        if self.error is not None:
            raise self.error
        return super().__call__(**how)


def test_trouble_of_ours_is_said_in_the_shape_of_the_endpoint(open_desk):
    from savannah.domain.errors import Unavailable

    storage = Broken()
    desk = open_desk(storage=storage)
    app = new_app(desk)
    storage.error = Unavailable()
    is_page(app.authorize(), 503)
    answer = app.redeem("x")
    assert answer.status_code == 503
    assert answer.json() == {"error": "temporarily_unavailable"}
    assert int(answer.headers["retry-after"]) > 0
    storage.error = RuntimeError("a secret of ours")
    page = is_page(app.authorize(), 500)
    answer = app.redeem("x")
    assert answer.status_code == 500
    assert answer.json() == {"error": "server_error"}
    assert "secret" not in page.text + answer.text


def test_wrong_methods_and_bodies_at_the_pages_are_told_in_pages(op, app):
    for path in ("/oauth/login", "/oauth/consent", "/oauth/logout/confirm"):
        is_page(app.browser.get(path), 405)
        is_page(app.browser.post(path, json={}), 400)
    is_page(
        app.browser.post(
            "/oauth/authorize",
            content=b"x" * 70_000,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        ),
        413,
    )
    assert app.browser.get("/oauth/nothing").json() == {"error": "invalid_request"}
