"""No call succeeds without its scope: every route with every role, and with no token at all."""

import pytest

from savannah.domain.access import Role, Scope
from savannah.entrypoints.http import browser, oauth, ops
from savannah.entrypoints.http.operations import OPERATION
from savannah.entrypoints.http.routes import API_PREFIX, API_ROUTES

UUID = "0199f3a2-5c1e-7c3a-9d57-3f0f6f0c2b11"
READS = {"customers:read", "orders:read", "analytics:read"}
WRITES = {"customers:write", "orders:write", "notifications:write"}
# What each role may do, as people were told.
MAY = {
    Role.VIEWER: READS,
    Role.STAFF: READS | WRITES,
    Role.ADMIN: {scope.value for scope in Scope},
}


def every_call():
    for prefix, handlers in ((API_PREFIX, API_ROUTES), ("", ops.ROUTES)):
        for handler in handlers:
            for path in handler.paths:
                for method in handler.http_methods:
                    yield method, prefix + path, handler.opt[OPERATION]


CALLS = sorted(every_call(), key=lambda call: (call[1], call[0]))
WITH_TOKEN = [call for call in CALLS if call[2].auth == "token"]
WITH_SCOPE = [call for call in WITH_TOKEN if call[2].scope is not None]
OPEN = {
    "register",
    "login",
    "createApp",
    "getHealth",
    "getLiveness",
    "getReadiness",
    "getMetrics",
    "getProblem",
    "reportDelivery",
    "takeInbound",
    "takeOptOut",
    "answerUssd",
}


def ids(call):
    return f"{call[0]} {call[1]}"


def concrete(path):
    parts = [UUID if part.startswith("{") else part for part in path.split("/")]
    return "/".join(parts)


def test_the_application_has_these_routes_and_no_others(desk):
    served = {
        (method, handler.opt[OPERATION].id)
        for route in desk.app.routes
        for handler in route.route_handlers
        for method in handler.http_methods
        if OPERATION in handler.opt
    }
    assert served == {(method, operation.id) for method, _, operation in CALLS}
    without = {
        (route.path, method)
        for route in desk.app.routes
        for handler in route.route_handlers
        for method in handler.http_methods
        if OPERATION not in handler.opt and method != "OPTIONS"
    }
    protocol = {
        (path, method)
        for handler in (*oauth.ROUTES, *browser.ROUTES)
        for path in handler.paths
        for method in handler.http_methods
    }
    assert without - protocol == {
        ("/openapi.json", "GET"),
        ("/docs", "GET"),
        ("/docs/reference.css", "GET"),
    }


def test_what_needs_no_token_is_on_this_list():
    assert {operation.id for _, _, operation in CALLS if operation.auth != "token"} == OPEN


def test_what_anybody_may_call_about_accounts_is_limited_by_address():
    limited = {operation.id for _, _, operation in CALLS if operation.anonymous_limit}
    assert limited == {"register", "login", "createApp"}


@pytest.mark.parametrize("call", WITH_TOKEN, ids=ids)
def test_without_a_token_nothing_else_is_looked_at(desk, refused, call):
    method, path, _ = call
    for body in ({}, {"content": b"{", "headers": {"Content-Type": "text/plain"}}):
        answer = desk.request(method, f"{concrete(path)}?unknown=1", **body)
        refused(answer, 401, "authentication_required")
    answer = desk.request(method, concrete(path), by="Bearer your-access-token")
    refused(answer, 401, "invalid_token")


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("call", WITH_SCOPE, ids=ids)
def test_a_role_gets_exactly_as_far_as_its_scopes(desk, refused, call, role):
    method, path, operation = call
    answer = desk.request(method, f"{concrete(path)}?unknown=1", by=role.value, content=b"{")
    if operation.scope in MAY[role]:
        # Past the permission: what is refused now is the path or the request.
        assert answer.status_code in (400, 404)
        return
    found = refused(answer, 403, "insufficient_scope")
    assert found["required_scope"] == operation.scope
    challenge = answer.headers["www-authenticate"]
    assert challenge.endswith(f'error="insufficient_scope", scope="{operation.scope}"')


@pytest.mark.parametrize("call", WITH_SCOPE, ids=ids)
def test_a_token_of_fewer_scopes_gets_no_further_than_those(desk, refused, call):
    method, path, operation = call
    desk.token("admin")
    all_but = " ".join(MAY[Role.ADMIN] - {operation.scope})
    login = desk.run(desk.log_in("a-admin", scope=all_but))
    answer = desk.request(method, concrete(path), by=f"Bearer {login.access_token}")
    assert refused(answer, 403, "insufficient_scope")["required_scope"] == operation.scope


def test_a_login_is_enough_for_ones_own_account(desk):
    own = {operation.id for _, _, operation in WITH_TOKEN if operation.scope is None}
    assert own == {
        *("getProfile", "updateProfile", "changePassword", "getTokenInfo", "logout"),
        *("listConsents", "withdrawConsent"),
    }
