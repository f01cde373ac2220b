"""What holds for every request: paths, bodies, ids, hosts, headers, limits and refusals."""

import asyncio
import json
import logging
import re
import uuid
from datetime import timedelta
from ipaddress import ip_network

import pytest

from savannah.adapters.memory import MemoryStorage
from savannah.domain.errors import Unavailable
from savannah.domain.notification_policy import Rate
from savannah.entrypoints.logs import JsonLines
from savannah.entrypoints.settings import parse
from savannah.entrypoints.simulator import Simulator
from virtual_time import VirtualLoop

UUID = "0199f3a2-5c1e-7c3a-9d57-3f0f6f0c2b11"

CHALLENGE = (
    'Bearer realm="savannah", '
    'resource_metadata="http://desk.test/.well-known/oauth-protected-resource/api/"'
)


# --- paths and methods ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/customers", "/api/customers/"])
def test_a_path_works_with_and_without_its_last_slash(desk, path):
    body = {"name": "Jane Smith", "phone_number": "0700 123 456"}
    answer = desk.post(path, by="staff", json=body)
    assert answer.status_code == 201
    one = answer.headers["location"]
    assert one.endswith("/")
    assert desk.get(one.rstrip("/"), by="staff").json() == desk.get(one, by="staff").json()


def test_a_refusal_is_the_same_with_and_without_the_slash(desk):
    with_slash, without = (
        desk.get(path, by="staff", headers={"X-Request-ID": "the-same-one"}).json()
        for path in (f"/api/orders/{UUID}/", f"/api/orders/{UUID}")
    )
    assert with_slash == without
    assert with_slash["instance"] == f"/api/orders/{UUID}/"


@pytest.mark.parametrize(
    "path", ["/", "/api/", "/api/nothing/", "/nothing", f"/api/orders/{UUID}/x/"]
)
def test_an_unknown_path_is_not_found(desk, refused, path):
    refused(desk.get(path), 404, "not_found")
    refused(desk.post(path, by="staff", json={}), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/customers/", "GET, HEAD, OPTIONS, POST"),
        ("POST", f"/api/orders/{UUID}/", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("GET", "/api/auth/login/", "OPTIONS, POST"),
        ("HEAD", "/api/auth/login/", "OPTIONS, POST"),
        ("DELETE", "/metrics", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_is_told_which_ones_are_right(desk, method, path, allowed):
    answer = desk.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    if method != "HEAD":
        assert answer.json()["code"] == "method_not_allowed"


def test_options_lists_all_methods_of_a_path(desk):
    answer = desk.request("OPTIONS", "/api/customers/")
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"


def test_head_is_get_without_the_body(desk):
    customer = desk.customer()
    path = f"/api/customers/{customer['id']}/"
    full, bare = desk.get(path, by="viewer"), desk.request("HEAD", path, by="viewer")
    assert (bare.status_code, bare.content) == (200, b"")
    for name in ("content-length", "content-type", "etag"):
        assert bare.headers[name] == full.headers[name]
    assert desk.request("HEAD", path).status_code == 401


def test_the_server_still_knows_that_head_was_asked_for(desk):
    scope, answers = raw_scope("HEAD", "/health/live"), []

    async def send(message):
        answers.append((message["type"], message.get("body")))

    desk.run(desk.app(scope, None, send))
    assert scope["method"] == "HEAD"
    assert answers == [("http.response.start", None), ("http.response.body", b"")]


def raw_scope(method, path, *headers):
    """A request as a server hands it over."""
    return {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"desk.test"), *headers],
        "client": ("127.0.0.1", 1),
    }


@pytest.mark.parametrize(
    "raw", ["x", "0199F3A2", "0199f3a25c1e7c3a9d573f0f6f0c2b11", f"%7B{UUID}%7D"]
)
def test_a_path_id_that_is_no_uuid_is_not_found(desk, refused, raw):
    refused(desk.get(f"/api/customers/{raw}/", by="viewer"), 404, "not_found")


def test_a_path_id_may_be_written_in_capitals(desk):
    customer = desk.customer()
    answer = desk.get(f"/api/customers/{customer['id'].upper()}/", by="viewer")
    assert answer.json()["id"] == customer["id"]


# --- bodies --------------------------------------------------------------------------------------

BODY = '{"name": "Jane Smith", "phone_number": "0700123456"}'


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON;x=y"]
)
def test_json_is_taken_with_any_parameters(desk, kind):
    answer = desk.post("/api/customers/", by="staff", content=BODY, headers={"Content-Type": kind})
    assert answer.status_code == 201


@pytest.mark.parametrize("kind", ["application/json", "application/merge-patch+json"])
def test_every_patch_takes_both_media_types(desk, kind):
    order, customer = desk.order(), desk.customer()
    for path, body in (
        (f"/api/customers/{customer['id']}/", '{"name": "Joe"}'),
        (f"/api/orders/{order['id']}/", '{"notes": "Call"}'),
        (f"/api/orders/{order['id']}/update_status/", '{"status": "processing"}'),
        ("/api/auth/profile/", '{"first_name": "Joe"}'),
    ):
        headers = {"Content-Type": kind}
        assert desk.patch(path, by="staff", content=body, headers=headers).status_code == 200, path


@pytest.mark.parametrize(
    "kind",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/merge-patch+json"],
)
def test_another_media_type_is_refused(desk, refused, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = desk.post("/api/customers/", by="staff", content=BODY, headers=headers)
    refused(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b'{"name": NaN}',
        b'{"amount": Infinity}',
        b"{'name': 'Jane'}",
        b'{"name": "\xff"}',
        b'{"name": "Jane"} {}',
        b"[" * 60_000,
    ],
)
def test_a_body_that_is_not_json_is_refused(desk, refused, body):
    headers = {"Content-Type": "application/json"}
    answer = desk.post("/api/customers/", by="staff", content=body, headers=headers)
    refused(answer, 400, "malformed_json")


@pytest.mark.parametrize("body", [[], "text", 5, None, True])
def test_a_body_that_is_no_object_is_refused_as_a_whole(desk, refused, body):
    answer = desk.post("/api/customers/", by="staff", content=json.dumps(body), headers=JSON)
    refused(answer, 422, "validation_error", ("#", "wrong_type"))


JSON = {"Content-Type": "application/json"}


def test_a_body_of_more_than_64_kib_is_refused(desk, refused):
    room = 64 * 1024 - len('{"notes": ""}')
    for size, status in ((room, 422), (room + 1, 413)):
        body = json.dumps({"notes": "x" * size})
        answer = desk.post("/api/customers/", by="staff", content=body, headers=JSON)
        assert answer.status_code == status
    assert "64 KiB" in refused(answer, 413, "body_too_large")["detail"]


def test_a_body_without_a_declared_length_is_measured_too(desk, refused):
    async def chunks():
        for _ in range(70):
            yield b" " * 1024

    answer = desk.post("/api/customers/", by="staff", content=chunks(), headers=JSON)
    refused(answer, 413, "body_too_large")


def test_a_body_that_breaks_off_is_no_failure_of_ours(desk, lines):
    statuses = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    token = (b"authorization", f"Bearer {desk.token('staff')}".encode())
    scope = raw_scope("POST", "/api/customers/", token, (b"content-length", b"20"))
    desk.run(desk.app(scope, receive, send))
    assert statuses == [400]
    assert not [line for line in lines if '"level": "error"' in line]


@pytest.mark.parametrize("body", [{"phone": "0700123456"}, {}, [], {"name": 5}])
def test_a_broken_idempotency_key_counts_before_the_fields_of_the_body(desk, refused, body):
    order = desk.order()
    for method, path in (
        ("POST", "/api/customers/"),
        ("POST", "/api/orders/"),
        ("PATCH", f"/api/orders/{order['id']}/update_status/"),
        ("POST", f"/api/orders/{order['id']}/cancel/"),
        ("POST", f"/api/orders/{order['id']}/resend_sms/"),
    ):
        headers = {"Idempotency-Key": "x" * 256}
        answer = desk.request(method, path, by="staff", json=body, headers=headers)
        refused(answer, 400, "invalid_idempotency_key")


def test_unknown_read_only_and_null_members_are_told_apart(desk, refused):
    body = {"phone": "0700123456", "version": 3, "phone_number": "0700123456", "name": None}
    refused(
        desk.post("/api/customers/", by="staff", json=body),
        422,
        "validation_error",
        ("#/phone", "unknown_field"),
        ("#/version", "read_only_field"),
        ("#/name", "null_not_allowed"),
    )


def test_the_name_of_an_unknown_member_is_a_json_pointer(desk, refused):
    body = {"a/b~c": 1, 'a\n"é': 1}
    answer = desk.post("/api/customers/", by="staff", json=body)
    places = {each["pointer"] for each in refused(answer, 422, "validation_error")["errors"]}
    assert {"#/a~1b~0c", "#/a%0A%22%C3%A9"} <= places


def test_the_name_of_an_unknown_member_of_a_merge_is_a_json_pointer_too(desk, refused):
    apps = {"name": "Till", "client_type": "confidential"}
    app = desk.post("/api/auth/apps/", by="admin", json=apps).json()["client_id"]
    customer = desk.customer()
    for path in (
        f"/api/customers/{customer['id']}/",
        f"/api/orders/{desk.order()['id']}/",
        "/api/auth/profile/",
        f"/api/auth/apps/{app}/",
        f"/api/auth/apps/{app}/provider/",
    ):
        found = desk.patch(path, by="admin", json={"a/b~c": 1, "x" * 1000: 2})
        places = {each["pointer"] for each in refused(found, 422, "validation_error")["errors"]}
        assert places == {"#/a~1b~0c", "#/" + "x" * 64}


# --- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/customers/"),
        ("POST", "/api/customers/"),
        ("GET", "/api/customers/{customer}/"),
        ("PATCH", "/api/customers/{customer}/"),
        ("DELETE", "/api/customers/{customer}/"),
        ("GET", "/api/customers/{customer}/stats/"),
        ("GET", "/api/orders/{order}/"),
        ("PATCH", "/api/orders/{order}/update_status/"),
        ("POST", "/api/orders/{order}/cancel/"),
        ("POST", "/api/orders/{order}/resend_sms/"),
        ("DELETE", "/api/orders/{order}/"),
        ("GET", "/api/auth/profile/"),
        ("GET", "/api/auth/token-info/"),
        ("POST", "/api/auth/login/"),
        ("GET", "/api/auth/health/"),
    ],
)
def test_an_unknown_parameter_is_refused_and_nothing_is_done(desk, refused, method, path):
    order = desk.order()
    whole = path.format(customer=order["customer"], order=order["id"])
    more = {"json": {"status": "processing"}} if method in ("POST", "PATCH") else {}
    answer = desk.request(method, f"{whole}?Limit=5", by="admin", **more)
    refused(answer, 400, "unknown_parameter", ("Limit", "unknown_parameter"))
    assert desk.get(f"/api/orders/{order['id']}/", by="staff").json() == order


@pytest.mark.parametrize(
    ("query", "why"),
    [("&".join(["status=pending"] * 1001), "At most 1000 parameters"), ("status=%ff", "UTF-8")],
)
def test_a_query_string_that_is_not_read_hears_why(desk, refused, query, why):
    answer = desk.get(f"/api/orders/?{query}", by="staff")
    assert why in refused(answer, 400, "invalid_parameter")["detail"]


def test_a_missing_subject_counts_before_parameters_and_body(desk, refused):
    for path in (f"/api/customers/{UUID}/", f"/api/orders/{UUID}/"):
        refused(desk.get(f"{path}?x=1", by="admin"), 404, "not_found")
        refused(desk.delete(f"{path}?x=1", by="admin"), 404, "not_found")
        refused(desk.patch(path, by="admin", content=b"{"), 404, "not_found")
        refused(desk.patch(path, by="admin", content=b"{" * 70_000), 404, "not_found")
    for last in ("update_status", "cancel", "resend_sms"):
        method = "PATCH" if last == "update_status" else "POST"
        path = f"/api/orders/{UUID}/{last}/"
        refused(desk.request(method, path, by="admin", json={"x": 1}), 404, "not_found")


# --- who is calling ------------------------------------------------------------------------------


def test_no_token_gets_a_challenge_without_an_error(desk, refused):
    answer = desk.get("/api/orders/")
    refused(answer, 401, "authentication_required")
    assert answer.headers["www-authenticate"] == f"{CHALLENGE}"


@pytest.mark.parametrize(
    "value",
    [
        "Bearer",
        "Bearer  ",
        "Basic am9objpzZWNyZXQ=",
        "Bearer a b",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
        "Bearer " + "x" * 10_000,
        "token",
    ],
)
def test_a_token_that_is_none_gets_a_challenge_with_an_error(desk, refused, value):
    answer = desk.get("/api/orders/", headers={"Authorization": value})
    refused(answer, 401, "invalid_token")
    assert answer.headers["www-authenticate"] == f'{CHALLENGE}, error="invalid_token"'


def test_the_word_bearer_is_read_in_any_case(desk):
    token = desk.token("viewer")
    for word in ("bearer", "BEARER"):
        answer = desk.get("/api/orders/", headers={"Authorization": f"{word} {token}"})
        assert answer.status_code == 200


def test_two_tokens_are_none(desk, refused):
    twice = [("Authorization", f"Bearer {desk.token('staff')}")] * 2
    answer = desk.run(desk.client.get("/api/orders/", headers=twice))
    refused(answer, 401, "invalid_token")


def test_a_token_in_the_address_is_not_looked_at(desk, refused):
    token = desk.token("staff")
    refused(desk.get(f"/api/orders/?access_token={token}"), 401, "authentication_required")


def test_a_missing_scope_is_named_in_body_and_challenge(desk, refused):
    answer = desk.post("/api/customers/", by="viewer", content=b"{")
    found = refused(answer, 403, "insufficient_scope")
    assert found["required_scope"] == "customers:write"
    assert answer.headers["www-authenticate"] == (
        f'{CHALLENGE}, error="insufficient_scope", scope="customers:write"'
    )


# --- request ids ---------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["01J9Z3K4", "a.b-c_d.", "x" * 64])
def test_a_request_id_is_kept(desk, given):
    answer = desk.get("/api/orders/", headers={"X-Request-ID": given})
    assert answer.headers["x-request-id"] == given
    assert answer.json()["request_id"] == given


@pytest.mark.parametrize(
    "given", [None, "", "short", "x" * 65, "with blank", "semi;colon1", "ünïcödé"]
)
def test_a_request_id_is_made_where_none_can_be_kept(desk, given):
    headers = {} if given is None else {"X-Request-ID": given.encode()}
    answer = desk.get("/api/orders/", headers=headers)
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.headers.get_list("x-request-id") == [answer.json()["request_id"]]


def test_what_a_request_did_is_recorded_under_its_id(desk):
    body = {"name": "Jane Smith", "phone_number": "0700123456"}
    answer = desk.post(
        "/api/customers/", by="staff", json=body, headers={"X-Request-ID": "the-request-1"}
    )

    async def events():
        async with desk.storage(reading=True) as uow:
            return await uow.events.of("customer", uuid.UUID(answer.json()["id"]))

    assert [event.request_id for event in desk.run(events())] == ["the-request-1"]


# --- hosts, https, proxies -----------------------------------------------------------------------

# As an operator writes them.
HOSTS = parse({"ALLOWED_HOSTS": "shop.example.com, .example.org, [::1]"}).hosts


@pytest.mark.parametrize(
    "host",
    [
        "shop.example.com",
        "SHOP.example.com:8000",
        "example.org",
        "a.example.org",
        "A.b.example.org",
        "[::1]:80",
    ],
)
def test_a_known_host_is_served(open_desk, host):
    desk = open_desk(allowed_hosts=HOSTS)
    answer = desk.get("/api/orders/", by="viewer", headers={"Host": host})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "a.shop.example.com",
        "notexample.org",
        "shop.example.com.evil.example",
        "shop.example.com@evil.example",
        "shop.example.com:80:80",
        "",
    ],
)
def test_a_strange_host_is_refused(open_desk, refused, host):
    desk = open_desk(allowed_hosts=HOSTS)
    answer = desk.get("/api/orders/", headers={"Host": host})
    refused(answer, 400, "invalid_host")
    assert answer.headers["x-content-type-options"] == "nosniff"
    for probe in ("/api/auth/health/", "/health/live", "/health/ready", "/metrics"):
        assert desk.get(probe, headers={"Host": "10.0.0.5:8000"}).status_code == 200


def test_a_filter_takes_so_many_values_and_no_more(desk, refused):
    """Each number of them is another statement to make and to keep."""
    for name, most in (("email", 100), ("status", 100)):
        path = "/api/customers/" if name == "email" else "/api/orders/"
        values = [f"{each}@example.com" if name == "email" else "pending" for each in range(most)]
        assert desk.get(path, by="viewer", params={name: ",".join(values)}).status_code == 200
        answer = desk.get(path, by="viewer", params={name: ",".join([*values, values[0]])})
        refused(answer, 400, "invalid_parameter")


def test_a_request_for_two_hosts_is_refused(open_desk, refused):
    desk = open_desk(allowed_hosts=HOSTS)
    for second in ("evil.example", "shop.example.com"):
        headers = [("Host", "shop.example.com"), ("Host", second)]
        answer = desk.run(desk.client.get("/api/orders/", headers=headers))
        refused(answer, 400, "invalid_host")


def test_plain_http_is_sent_to_https_in_production(open_desk):
    desk = open_desk(debug=False)
    for method in ("GET", "POST"):
        answer = desk.request(method, "/api/orders/?status=pending&q=%41")
        assert (answer.status_code, answer.content) == (308, b"")
        assert answer.headers["location"] == "https://desk.test/api/orders/?status=pending&q=%41"
        assert "strict-transport-security" not in answer.headers
    for probe in ("/api/auth/health/", "/health/live", "/health/ready", "/metrics"):
        assert desk.get(probe).status_code == 200


def test_the_simulator_and_its_callbacks_may_stay_on_this_machine_without_https(open_desk):
    """With DEBUG off the embedded gateway still reaches the service, and is reached."""
    desk = open_desk(debug=False, simulator=Simulator().app())
    callback = f"/api/sms/africastalking/{desk.callback_token}/delivery/"
    form = {"id": "ATXid_1", "status": "Success", "phoneNumber": "+254700123456"}
    assert desk.get("/simulator/state.json").status_code == 200
    assert desk.post(callback, data=form).status_code == 200
    assert desk.get("/api/orders/").status_code == 308
    assert open_desk(debug=False).post(callback, data=form).status_code == 308
    metrics = desk.get("/metrics").text
    assert 'route="/simulator"' in metrics


@pytest.mark.parametrize("path", ["/simulator/", "/simulator/state.json"])
def test_in_production_nobody_else_reads_the_simulated_handsets(open_desk, refused, path):
    proxies = (ip_network("127.0.0.1/32"),)
    desk = open_desk(debug=False, simulator=Simulator().app(), trusted_proxies=proxies)
    headers = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    refused(desk.get(path, headers=headers), 404, "not_found")
    assert desk.get(path).status_code == 200
    desk = open_desk(simulator=Simulator().app(), trusted_proxies=proxies)
    assert desk.get(path, headers=headers).status_code == 200


def test_https_is_kept_by_browsers_in_production(open_desk, desk):
    answer = open_desk(debug=False).get("https://desk.test/api/orders/", by="viewer")
    assert answer.status_code == 200
    assert answer.headers["strict-transport-security"].startswith("max-age=31536000")
    assert "strict-transport-security" not in desk.get("https://desk.test/api/orders/").headers


FORWARDED = {
    "X-Forwarded-For": "198.51.100.9, 203.0.113.7, 10.1.1.1",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "shop.example.com",
}


def test_forwarded_headers_count_from_trusted_proxies(open_desk):
    proxies = (ip_network("127.0.0.1/32"), ip_network("10.0.0.0/8"))
    desk = open_desk(debug=False, allowed_hosts=HOSTS, trusted_proxies=proxies)
    body = {"name": "Jane Smith", "phone_number": "0700123456"}
    for _ in range(2):
        desk.post("/api/customers/", by="staff", json=body, headers=FORWARDED)
    answer = desk.get("/api/customers/?limit=1", by="staff", headers=FORWARDED)
    assert answer.status_code == 200
    assert answer.json()["next"].startswith("https://shop.example.com/api/customers/?")


def test_forwarded_headers_of_others_do_not_count(open_desk, refused):
    desk = open_desk(allowed_hosts=HOSTS, trusted_proxies=(ip_network("10.0.0.0/8"),))
    refused(desk.get("/api/customers/", headers=FORWARDED), 400, "invalid_host")
    desk = open_desk(debug=False, trusted_proxies=(ip_network("10.0.0.0/8"),))
    answer = desk.get("/api/customers/", headers={"X-Forwarded-Proto": "https"})
    assert (answer.status_code, answer.headers["location"][:8]) == (308, "https://")


@pytest.mark.parametrize(
    "path",
    ["/%2Fmetrics", "/metrics//", "/api//customers/", "/api/customers//", "/%2Fapi/customers/"],
)
def test_a_path_with_an_empty_part_leads_nowhere(open_desk, path):
    answer = open_desk().get(path, by="staff")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/%6detrics"])
def test_figures_are_for_those_who_ask_directly(open_desk, refused, path):
    desk = open_desk(debug=False, trusted_proxies=(ip_network("127.0.0.1/32"),))
    refused(desk.get(path, headers=FORWARDED), 404, "not_found")
    assert desk.get(path).status_code == 200
    assert desk.get("/health/ready", headers=FORWARDED).status_code == 200
    # Who is no proxy of ours closes it to nobody.
    other = open_desk(debug=False, trusted_proxies=(ip_network("10.0.0.0/8"),))
    assert other.get(path, headers=FORWARDED).status_code == 200


def test_the_nearest_address_that_is_no_proxy_is_the_callers(open_desk, refused):
    proxies = (ip_network("127.0.0.1/32"), ip_network("10.0.0.0/8"))
    desk = open_desk(trusted_proxies=proxies, rate_limit_auth=Rate.parse("1/min"))

    def attempt(forwarded):
        headers = [("X-Forwarded-For", each) for each in forwarded]
        return desk.run(desk.client.post("/api/auth/login/", headers=headers))

    # What the caller claims about itself stands further left, and changes nothing.
    assert attempt(["1.1.1.1, 203.0.113.7, 10.1.1.1"]).status_code == 400
    refused(attempt(["2.2.2.2, 203.0.113.7"]), 429, "rate_limited")
    refused(attempt(["203.0.113.7", "10.2.2.2"]), 429, "rate_limited")
    assert attempt(["203.0.113.8"]).status_code == 400


def test_neighbours_in_one_ipv6_network_share_a_limit(open_desk, refused):
    proxies = (ip_network("127.0.0.1/32"),)
    desk = open_desk(trusted_proxies=proxies, rate_limit_auth=Rate.parse("1/min"))

    def attempt(address):
        return desk.post("/api/auth/login/", headers={"X-Forwarded-For": address})

    assert attempt("2001:db8:1:2::5").status_code == 400
    refused(attempt("2001:db8:1:2:ffff::6"), 429, "rate_limited")
    assert attempt("2001:db8:1:3::5").status_code == 400
    assert attempt("::ffff:203.0.113.7").status_code == 400
    refused(attempt("203.0.113.7"), 429, "rate_limited")


# --- headers of answers --------------------------------------------------------------------------


EVERY_KIND = [
    "/api/orders/",
    "/api/auth/health/",
    "/api/nothing/",
    "/nothing",
    "/docs",
    "/openapi.json",
    "/metrics",
    "/health/live",
    "/problems/not_found",
    "/.well-known/jwks.json",
    "/simulator/",
    "/simulator/state.json",
]


@pytest.mark.parametrize("path", EVERY_KIND)
def test_every_kind_of_answer_has_the_security_headers_in_production(open_desk, path):
    desk = open_desk(debug=False, simulator=Simulator().app())
    for method in ("GET", "OPTIONS", "TRACE"):
        headers = desk.request(method, f"https://desk.test{path}").headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]
        assert headers["strict-transport-security"].startswith("max-age=31536000")
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "server" not in headers
        for name in headers:
            assert len(headers.get_list(name)) == 1


def test_refusals_of_the_gate_have_the_security_headers_too(open_desk):
    desk = open_desk(debug=False, allowed_hosts=HOSTS)
    for answer, status in (
        (desk.get("/api/orders/", headers={"Host": "evil.example"}), 400),
        (desk.get("/api/orders/", headers={"Host": "shop.example.com"}), 308),
    ):
        assert answer.status_code == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("path", ["/api/orders/", "/api/auth/health/", "/api/nothing/", "/docs"])
def test_every_answer_has_the_security_headers(desk, path):
    headers = desk.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]
    for name in headers:
        assert len(headers.get_list(name)) == 1


def test_answers_of_the_api_are_not_kept_by_caches(desk):
    assert desk.get("/api/orders/", by="staff").headers["cache-control"] == "no-store"
    assert desk.get("/api/orders/").headers["cache-control"] == "no-store"
    login = desk.post("/api/auth/login/", json={})
    assert login.headers["cache-control"] == "no-store"


def test_other_origins_may_call_where_they_are_named(open_desk):
    desk = open_desk(cors_origins=("https://shop.example.com",))
    asked = {
        "Origin": "https://shop.example.com",
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,content-type,if-match",
    }
    preflight = desk.request("OPTIONS", f"/api/orders/{UUID}/", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://shop.example.com"
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    answer = desk.get("/api/orders/", headers={"Origin": "https://shop.example.com"})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "https://shop.example.com"
    assert "etag" in answer.headers["access-control-expose-headers"].lower()
    assert answer.headers.get("access-control-allow-credentials") != "true"


def test_other_origins_may_not_call_where_they_are_not_named(open_desk, desk):
    stranger = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    for each in (desk, open_desk(cors_origins=("https://shop.example.com",))):
        for method in ("OPTIONS", "GET"):
            answer = each.request(method, "/api/orders/", headers=stranger)
            assert "access-control-allow-origin" not in answer.headers


# --- limits --------------------------------------------------------------------------------------


def test_a_principal_has_a_limit_over_all_its_tokens(open_desk, refused):
    desk = open_desk(rate_limit=Rate.parse("3/min"))
    first = desk.get("/api/orders/", by="viewer")
    assert [first.headers[f"ratelimit-{name}"] for name in ("limit", "remaining", "reset")] == [
        "3",
        "2",
        "60",
    ]
    again = f"Bearer {desk.run(desk.log_in('a-viewer')).access_token}"
    desk.get("/api/customers/", by=again)
    # A refusal counts and tells as well.
    assert desk.post("/api/orders/", by="viewer").headers["ratelimit-remaining"] == "0"
    limited = desk.get("/api/orders/", by="viewer")
    refused(limited, 429, "rate_limited")
    assert limited.headers["retry-after"] == "60"
    assert desk.get("/api/orders/", by="staff").status_code == 200
    desk.advance(seconds=60)
    assert desk.get("/api/orders/", by="viewer").status_code == 200


def test_an_address_that_guesses_tokens_has_a_limit(open_desk, refused):
    desk = open_desk(rate_limit=Rate.parse("3/min"))
    for _ in range(3):
        refused(desk.get("/api/orders/", by="Bearer nonsense"), 401, "invalid_token")
    refused(desk.get("/api/orders/", by="Bearer nonsense"), 429, "rate_limited")
    assert desk.get("/api/orders/", by="viewer").status_code == 200


class Hangs(MemoryStorage):
    """Storage that takes for ever, once it is told to."""

    hangs = False

    def __call__(self, *, reading=False):
        return self if self.hangs else super().__call__(reading=reading)

    async def __aenter__(self):
        await asyncio.Event().wait()

    async def __aexit__(self, *_):
        raise AssertionError


def test_a_handler_that_hangs_is_answered_for(open_desk, refused, lines):
    storage = Hangs()
    limit = timedelta(minutes=1)
    desk = open_desk(storage=storage, request_timeout=limit, loop_factory=VirtualLoop)
    assert desk.get("/api/orders/", by="viewer").status_code == 200
    storage.hangs = True
    began_at = desk.time()
    answer = desk.get("/api/orders/", by="viewer")
    refused(answer, 503, "service_unavailable")
    assert desk.time() - began_at == pytest.approx(limit.total_seconds(), abs=1)
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-content-type-options"] == "nosniff"
    storage.hangs = False
    assert desk.get("/api/orders/", by="viewer").status_code == 200
    assert "a request took too long" in "".join(lines)
    shown = desk.get("/metrics").text
    assert 'savannah_http_problems_total{code="service_unavailable"} 1.0' in shown


def test_without_limits_there_are_no_limit_headers(desk):
    answer = desk.get("/api/orders/", by="viewer")
    assert not [name for name in answer.headers if name.startswith("ratelimit")]


# --- what is never told --------------------------------------------------------------------------


class Broken(MemoryStorage):
    """Storage that fails as a test says."""

    failure = None

    def __call__(self, *, reading=False):
        if self.failure is not None:
            raise self.failure
        return super().__call__(reading=reading)


@pytest.fixture
def lines():
    """What the service writes on standard error, a line each."""

    class Lines(logging.Handler):
        def emit(self, record):
            written.append(JsonLines().format(record))

    written = []
    logger, handler = logging.getLogger("savannah"), Lines()
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def breakable(open_desk):
    return open_desk(storage=Broken())


def test_an_unforeseen_failure_says_nothing_about_itself(breakable, refused, lines):
    breakable.token("staff")
    breakable.storage.failure = RuntimeError("SELECT * FROM secrets WHERE phone = '+254700123456'")
    answer = breakable.get("/api/orders/", by="staff")
    found = refused(answer, 500, "internal_error")
    assert set(found) == {"type", "title", "status", "code", "detail", "instance", "request_id"}
    assert "SELECT" not in answer.text
    assert any("a request failed" in line and "RuntimeError" in line for line in lines)
    assert not any("254700123456" in line for line in lines)


def test_storage_that_is_away_asks_for_patience(breakable, refused):
    breakable.token("staff")
    breakable.storage.failure = Unavailable()
    answer = breakable.get("/api/orders/", by="staff")
    refused(answer, 503, "service_unavailable")
    assert answer.headers["retry-after"] == "5"


def test_nothing_that_is_secret_reaches_the_logs_or_the_problems(desk, lines):
    secrets = ["securepassword123", "wrong-password-9", "0700123456", "254700123456", "jane@ex"]
    john = {"username": "johndoe", "password": secrets[0], "email": "jane@example.com"}
    assert desk.post("/api/auth/register/", json=john).status_code == 201
    app = desk.post("/api/auth/create-app/", json={"name": "App"}).json()
    body = {**john, "client_id": app["client_id"], "client_secret": app["client_secret"]}
    del body["email"]
    login = desk.post("/api/auth/login/", json=body).json()
    by = f"Bearer {login['access_token']}"
    problems = [
        desk.post("/api/auth/register/", json=john),
        desk.post("/api/auth/login/", json={**body, "password": secrets[1]}),
        desk.post("/api/auth/login/", json={**body, "client_id": "none"}),
        desk.post("/api/auth/logout/", by=by, json={"refresh_token": 1}),
        desk.get("/api/orders/", by=f"{by}x"),
        desk.post("/api/customers/", by=by, json={"phone_number": "0700123456x"}),
        desk.get("/api/customers/?phone=0700123456x", by=by),
    ]
    customer = {"name": "Jane", "phone_number": "0700123456", "email": "jane@example.com"}
    assert desk.post("/api/customers/", by=by, json=customer).status_code == 201
    problems.append(desk.post("/api/customers/", by=by, json=customer))
    secrets += [app["client_secret"], login["access_token"], login["refresh_token"]]
    for answer in problems:
        assert answer.status_code in (400, 401, 409, 422)
    assert any('"event": "request"' in line for line in lines)
    told = [answer.text for answer in problems] + lines
    for secret in secrets:
        assert not [text for text in told if secret in text]


def test_an_access_line_has_the_route_and_not_the_path(desk, lines):
    order = desk.order()
    lines.clear()
    desk.get(f"/api/orders/{order['id']}/", by="staff", headers={"X-Request-ID": "line-0001"})
    desk.get("/api/nothing/?secret=1")
    found = [json.loads(line) for line in lines]
    found = [line for line in found if line["logger"] == "savannah.access"]
    assert [(line["method"], line["route"], line["status"]) for line in found] == [
        ("GET", "/api/orders/{order_id}", 200),
        ("GET", "unmatched", 404),
    ]
    assert found[0]["request_id"] == "line-0001"
    assert found[0]["duration_ms"] > 0
