"""`/api/customers/` as its callers see it; every answer is also held against the document."""

import asyncio
import json
from datetime import UTC, datetime
from itertools import product

import pytest

URL = "/api/customers/"
NOBODY = "0199f3a2-5c1e-7c3a-9d57-3f0f6f0c2b11"
JANE = {"name": "Jane Smith", "phone_number": "0700 123 456"}


def path_of(customer):
    return f"{URL}{customer['id']}/"


def names(answer):
    assert answer.status_code == 200, answer.text
    return [each["name"] for each in answer.json()["results"]]


# --- creating -------------------------------------------------------------------------------


def test_a_customer_is_created_with_everything_the_caller_did_not_say(desk):
    answer = desk.post(URL, by="staff", json=JANE)
    assert answer.status_code == 201
    found = answer.json()
    assert answer.headers["location"] == f"/api/customers/{found['id']}/"
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["cache-control"] == "no-store"
    assert found == {
        "id": found["id"],
        "code": found["code"],
        "name": "Jane Smith",
        "email": None,
        "phone_number": "+254700123456",
        "locale": "en",
        "sms_opt_out": False,
        "sms_reachability": "unknown",
        "notes": "",
        "metadata": {},
        "created_at": "2026-11-23T09:00:00Z",
        "updated_at": "2026-11-23T09:00:00Z",
        "archived_at": None,
        "version": 1,
    }
    assert found["id"][14] == "7"
    assert found["code"].startswith("CUST-")
    again = desk.get(answer.headers["location"], by="viewer")
    assert again.content == answer.content
    assert again.headers["etag"] == '"1"'


def test_a_customer_keeps_every_field_that_was_given(desk):
    given = {
        "name": "  Zoë Wanjikũ\n",
        "phone_number": "+256 772 123456",
        "email": "Zoe@Example.com",
        "code": "vip-1",
        "locale": "sw",
        "sms_opt_out": True,
        "notes": "Line one\n\tline two",
        "metadata": {"colour": "green", "empty": ""},
    }
    found = desk.customer(**given)
    assert found["name"] == "Zoë Wanjikũ"
    assert found["phone_number"] == "+256772123456"
    assert found["email"] == "Zoe@Example.com"
    assert found["code"] == "VIP-1"
    assert found["locale"] == "sw"
    assert found["sms_opt_out"] is True
    assert found["notes"] == given["notes"]
    assert found["metadata"] == given["metadata"]


def test_text_is_stored_raw_and_composed(desk):
    found = desk.customer(name="<b>Ame\u0301lie</b>")
    assert found["name"] == "<b>Am\u00e9lie</b>"


def test_both_spellings_of_the_path_reach_the_same_handler(desk):
    answer = desk.post("/api/customers", by="staff", json=JANE)
    assert answer.status_code == 201
    found = answer.json()
    assert desk.get(f"/api/customers/{found['id']}", by="viewer").json() == found
    assert desk.get("/api/customers", by="viewer").json()["count"] == 1


def test_families_share_phones(desk):
    assert desk.customer()["phone_number"] == desk.customer(name="Joe")["phone_number"]


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("name", "", "blank"),
        ("name", " \t\u00a0", "blank"),
        ("name", "x" * 256, "too_long"),
        ("name", "a\nb", "invalid_format"),
        ("name", "a\u0000b", "invalid_format"),
        ("name", "a\u0085b", "invalid_format"),
        ("name", 5, "wrong_type"),
        ("name", None, "null_not_allowed"),
        ("phone_number", "", "invalid_phone"),
        ("phone_number", "0700 12 34", "invalid_phone"),
        ("phone_number", "0700 123 456 ext 7", "invalid_phone"),
        ("phone_number", "+254 20 2222222", "phone_not_mobile"),
        ("phone_number", "+44 20 7946 0958", "phone_not_mobile"),
        ("phone_number", "٠٧٠٠١٢٣٤٥٦", "invalid_phone"),
        ("phone_number", "0" * 33, "invalid_phone"),
        ("phone_number", 254700123456, "wrong_type"),
        ("phone_number", None, "null_not_allowed"),
        ("email", "nobody", "invalid_email"),
        ("email", "", "blank"),
        ("email", "a@b", "invalid_email"),
        ("email", f"{'a' * 64}@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}.com", "too_long"),
        ("email", ["jane@example.com"], "wrong_type"),
        ("code", "A", "too_short"),
        ("code", "A" * 21, "too_long"),
        ("code", "-AB", "invalid_format"),
        ("code", "A_B", "invalid_format"),
        ("code", None, "null_not_allowed"),
        ("locale", "fr", "invalid_choice"),
        ("locale", "EN", "invalid_choice"),
        ("locale", 1, "wrong_type"),
        ("sms_opt_out", "true", "wrong_type"),
        ("sms_opt_out", 1, "wrong_type"),
        ("sms_opt_out", None, "null_not_allowed"),
        ("notes", "x" * 2001, "too_long"),
        ("notes", "a\rb", "invalid_format"),
        ("notes", 1, "wrong_type"),
        ("metadata", [], "wrong_type"),
        ("metadata", {"a": 1}, "wrong_type"),
        ("metadata", {"a": None}, "wrong_type"),
        ("metadata", {"": "x"}, "blank"),
        ("metadata", {"k" * 41: "x"}, "too_long"),
        ("metadata", {"k": "x" * 501}, "too_long"),
        ("metadata", {f"k{n}": "x" for n in range(21)}, "too_long"),
        ("id", NOBODY, "read_only_field"),
        ("sms_reachability", "reachable", "read_only_field"),
        ("version", 3, "read_only_field"),
        ("created_at", "2026-11-23T09:00:00Z", "read_only_field"),
        ("archived_at", None, "read_only_field"),
        ("phone", "0700 123 456", "unknown_field"),
    ],
)
def test_a_broken_field_is_named_with_its_code_and_nothing_is_kept(
    desk, refused, field, value, code
):
    answer = desk.post(URL, by="staff", json={**JANE, field: value})
    found = refused(answer, 422, "validation_error", (f"#/{field}", code))
    assert found["errors"][0]["field"] == field
    assert desk.get(URL, by="viewer").json()["count"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "x" * 255),
        ("name", "\r\n" + "é" * 255 + " "),
        ("notes", "x" * 2000),
        ("code", "AB"),
        ("code", " ab-" + "9" * 17 + " "),
        ("metadata", {f"k{n}": "x" * 500 for n in range(20)}),
        ("metadata", {"k" * 40: "a\nb"}),
        ("email", None),
        ("email", " jane@example.com "),
    ],
)
def test_the_longest_and_shortest_values_are_accepted(desk, field, value):
    assert desk.post(URL, by="staff", json={**JANE, field: value}).status_code == 201


@pytest.mark.parametrize(
    "spelling",
    [
        "+254700123456",
        "254700123456",
        "0700123456",
        "700123456",
        "00254700123456",
        "000254700123456",
        "+2540700123456",
        "2540700123456",
        "0700-123-456",
        "(0700) 123.456",
        "0700\u00a0123\u2009456",
        " 0700 123 456\n",
    ],
)
def test_every_spelling_of_a_kenyan_mobile_becomes_e164(desk, spelling):
    assert desk.customer(phone_number=spelling)["phone_number"] == "+254700123456"


def test_all_broken_fields_are_reported_together(desk, refused):
    body = {
        "name": "",
        "phone_number": "nonsense",
        "email": "nobody",
        "code": "-",
        "locale": "xx",
        "sms_opt_out": "no",
        "notes": 5,
        "metadata": "x",
    }
    found = refused(
        desk.post(URL, by="staff", json=body),
        422,
        "validation_error",
        ("#/name", "blank"),
        ("#/phone_number", "invalid_phone"),
        ("#/email", "invalid_email"),
        ("#/code", "too_short"),
        ("#/locale", "invalid_choice"),
        ("#/sms_opt_out", "wrong_type"),
        ("#/notes", "wrong_type"),
        ("#/metadata", "wrong_type"),
    )
    assert found["detail"] == "8 problems found"


def test_missing_and_unknown_fields_are_reported_together(desk, refused):
    refused(
        desk.post(URL, by="staff", json={"phone": "0700 123 456", "a/b~c": 1}),
        422,
        "validation_error",
        ("#/name", "required"),
        ("#/phone_number", "required"),
        ("#/phone", "unknown_field"),
        ("#/a~1b~0c", "unknown_field"),
    )


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"5", b"null", b"true", b"1.5"])
def test_a_body_that_is_no_object_is_refused_as_a_whole(desk, refused, raw):
    kind = {"Content-Type": "application/json"}
    answer = desk.post(URL, by="staff", content=raw, headers=kind)
    refused(answer, 422, "validation_error", ("#", "wrong_type"))


@pytest.mark.parametrize("raw", [b"", b" ", b"{", b'{"name": NaN}', b"\xff\xfe", b'{"a":1} x'])
def test_a_body_that_is_no_json_is_malformed(desk, refused, raw):
    kind = {"Content-Type": "application/json"}
    refused(desk.post(URL, by="staff", content=raw, headers=kind), 400, "malformed_json")


def test_deep_nesting_is_malformed_and_does_no_harm(desk, refused):
    kind = {"Content-Type": "application/json"}
    raw = b"[" * 30_000
    refused(desk.post(URL, by="staff", content=raw, headers=kind), 400, "malformed_json")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/merge-patch+json", ""]
)
def test_another_media_type_is_refused(desk, refused, kind):
    raw = json.dumps(JANE).encode()
    answer = desk.post(URL, by="staff", content=raw, headers={"Content-Type": kind})
    refused(answer, 415, "unsupported_media_type")


def test_the_media_type_may_have_parameters_and_any_case(desk):
    raw = json.dumps(JANE).encode()
    kind = {"Content-Type": "Application/JSON; charset=UTF-8"}
    assert desk.post(URL, by="staff", content=raw, headers=kind).status_code == 201


def test_a_body_over_64_kib_is_too_large(desk, refused):
    body = {**JANE, "notes": "x" * 65_536}
    refused(desk.post(URL, by="staff", json=body), 413, "body_too_large")


def test_two_customers_with_one_address_are_a_conflict_whatever_its_case(desk, refused):
    desk.customer(email="jane@example.com")
    again = {**JANE, "email": "JANE@example.COM"}
    refused(desk.post(URL, by="staff", json=again), 409, "email_taken")


def test_a_code_is_unique_for_ever(desk, refused):
    first = desk.customer(code="VIP-1")
    again = {**JANE, "code": "vip-1"}
    refused(desk.post(URL, by="staff", json=again), 409, "code_taken")
    assert desk.delete(path_of(first), by="admin").status_code == 204
    refused(desk.post(URL, by="staff", json=again), 409, "code_taken")


# --- permissions and the order of checks ----------------------------------------------------

WRITES = [
    ("POST", URL, "staff", "viewer", "customers:write"),
    ("PATCH", URL + "{id}/", "staff", "viewer", "customers:write"),
    ("DELETE", URL + "{id}/", "admin", "staff", "customers:delete"),
]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write[0])
def test_a_write_needs_a_token_and_then_its_scope(desk, refused, write):
    method, path, may, may_not, scope = write
    jane = desk.customer()
    target = path.format(id=jane["id"])
    refused(desk.request(method, target), 401, "authentication_required")
    refused(desk.request(method, target, by="Bearer nonsense"), 401, "invalid_token")
    found = refused(desk.request(method, target, by=may_not), 403, "insufficient_scope")
    assert found["required_scope"] == scope
    assert desk.request(method, target, by=may, json={}).status_code != 403


@pytest.mark.parametrize("path", ["", "{id}/", "{id}/orders/", "{id}/stats/", "search/?q=jane"])
def test_everyone_with_a_role_may_read_and_nobody_without_a_token(desk, refused, path):
    target = URL + path.format(id=desk.customer()["id"])
    assert desk.get(target, by="viewer").status_code == 200
    answer = desk.get(target)
    refused(answer, 401, "authentication_required")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("scope", "path", "needs"),
    [
        ("customers:read", "{id}/orders/", "orders:read"),
        ("customers:read", "{id}/stats/", "analytics:read"),
        ("orders:read", "{id}/", "customers:read"),
        ("orders:read", "", "customers:read"),
    ],
)
def test_a_token_of_narrow_scope_opens_only_its_own_area(desk, refused, scope, path, needs):
    target = URL + path.format(id=desk.customer()["id"])
    desk.token("staff")
    token = desk.run(desk.log_in("a-staff", scope=scope)).access_token
    found = refused(desk.get(target, by=f"Bearer {token}"), 403, "insufficient_scope")
    assert found["required_scope"] == needs


def test_the_scope_counts_before_the_path_and_the_path_before_the_body(desk, refused):
    nobody = f"{URL}{NOBODY}/"
    raw = {"content": b"{", "headers": {"Content-Type": "text/plain"}}
    refused(desk.patch(nobody, **raw), 401, "authentication_required")
    refused(desk.patch(nobody, by="viewer", **raw), 403, "insufficient_scope")
    refused(desk.patch(nobody, by="staff", **raw), 404, "not_found")
    jane = desk.customer()
    refused(desk.patch(path_of(jane), by="staff", **raw), 415, "unsupported_media_type")


def test_a_missing_customer_outranks_every_fault_of_the_request(desk, refused):
    nobody = f"{URL}{NOBODY}/"
    refused(desk.patch(nobody, by="staff", json={"name": ""}), 404, "not_found")
    refused(desk.patch(nobody, by="staff", json=[]), 404, "not_found")
    refused(desk.patch(nobody + "?x=1", by="staff", json={}), 404, "not_found")
    refused(desk.patch(nobody, by="staff", json={"notes": "x" * 70_000}), 404, "not_found")
    refused(desk.get(nobody + "?x=1", by="staff"), 404, "not_found")
    refused(desk.get(nobody + "stats/?currency=XXX", by="staff"), 404, "not_found")
    refused(desk.get(nobody + "orders/?limit=0", by="staff"), 404, "not_found")
    refused(desk.delete(nobody + "?x=1", by="admin"), 404, "not_found")


def test_fields_count_before_the_revision_and_the_revision_before_the_state(desk, refused):
    jane = desk.customer()
    stale = {"If-Match": '"9"'}
    assert desk.delete(path_of(jane), by="admin").status_code == 204
    target = path_of(jane)
    refused(
        desk.patch(target, by="staff", json={"name": ""}, headers=stale), 422, "validation_error"
    )
    refused(
        desk.patch(target, by="staff", json={"name": "X"}, headers=stale), 412, "version_conflict"
    )
    refused(desk.patch(target, by="staff", json={"name": "X"}), 409, "customer_archived")


@pytest.mark.parametrize("raw", ["nope", "0", "0199f3a2", "{id}", f"urn:uuid:{NOBODY}"])
def test_a_path_id_that_is_no_uuid_is_not_found(desk, refused, raw):
    refused(desk.get(f"{URL}{raw}/", by="viewer"), 404, "not_found")


def test_ids_are_taken_in_any_case_and_given_in_lower_case(desk):
    jane = desk.customer()
    answer = desk.get(f"{URL}{jane['id'].upper()}/", by="viewer")
    assert answer.status_code == 200
    assert answer.json()["id"] == jane["id"] == jane["id"].lower()
    other = desk.patch(f"{URL}{jane['id'].upper()}/", by="staff", json={"name": "J"})
    assert other.json()["name"] == "J"


def test_a_wrong_method_is_told_which_are_right(desk, refused):
    answer = desk.request("PUT", path_of(desk.customer()), by="staff", json={})
    refused(answer, 405, "method_not_allowed")
    allowed = {method.strip() for method in answer.headers["allow"].split(",")}
    assert {"GET", "PATCH", "DELETE"} <= allowed


def test_an_unknown_path_below_a_customer_is_not_found(desk, refused):
    refused(desk.get(path_of(desk.customer()) + "shoes/", by="viewer"), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", URL),
        ("POST", URL),
        ("GET", URL + "{id}/"),
        ("PATCH", URL + "{id}/"),
        ("DELETE", URL + "{id}/"),
        ("GET", URL + "{id}/orders/"),
        ("GET", URL + "{id}/stats/"),
        ("GET", URL + "search/"),
    ],
)
def test_an_unknown_query_parameter_never_passes_silently(desk, refused, method, path):
    target = path.format(id=desk.customer()["id"])
    body = {"json": JANE} if method in ("POST", "PATCH") else {}
    answer = desk.request(method, f"{target}?colour=red", by="admin", **body)
    refused(answer, 400, "unknown_parameter", ("colour", "unknown_parameter"))
    assert desk.get(URL, by="viewer").json()["count"] == 1


# --- changing -------------------------------------------------------------------------------


def test_a_patch_changes_what_it_names_and_leaves_the_rest(desk):
    jane = desk.customer(email="jane@example.com", notes="old")
    desk.advance(minutes=5)
    answer = desk.patch(path_of(jane), by="staff", json={"sms_opt_out": True, "notes": "new"})
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"2"'
    assert answer.json() == {
        **jane,
        "sms_opt_out": True,
        "notes": "new",
        "updated_at": "2026-11-23T09:05:00Z",
        "version": 2,
    }


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": " Jane Smith "},
        {"phone_number": "+254 700 123 456"},
        {"metadata": {}},
        {"metadata": {"a": "1", "gone": None}},
        {"code": "vip-1"},
        {"email": "jane@example.com", "locale": "en", "sms_opt_out": False},
    ],
)
def test_an_effective_no_op_changes_nothing(desk, body):
    jane = desk.customer(email="jane@example.com", code="VIP-1", metadata={"a": "1"})
    desk.advance(minutes=5)
    answer = desk.patch(path_of(jane), by="staff", json=body)
    assert answer.status_code == 200
    assert answer.json() == jane
    assert answer.headers["etag"] == '"1"'


def test_a_merge_patch_media_type_is_welcome(desk):
    jane = desk.customer()
    answer = desk.patch(
        path_of(jane),
        by="staff",
        content=b'{"name": "J"}',
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert answer.json()["name"] == "J"


def test_null_clears_the_address_and_nothing_else(desk, refused):
    jane = desk.customer(email="jane@example.com")
    assert desk.patch(path_of(jane), by="staff", json={"email": None}).json()["email"] is None
    fields = ("name", "phone_number", "locale", "sms_opt_out", "notes", "metadata")
    refused(
        desk.patch(path_of(jane), by="staff", json=dict.fromkeys(fields)),
        422,
        "validation_error",
        *((f"#/{field}", "null_not_allowed") for field in fields),
    )


def test_metadata_merges_and_a_null_value_removes_its_key(desk, refused):
    jane = desk.customer(metadata={"a": "1", "b": "2"})
    answer = desk.patch(path_of(jane), by="staff", json={"metadata": {"b": None, "c": "3"}})
    assert answer.json()["metadata"] == {"a": "1", "c": "3"}
    many = {f"k{n}": "x" for n in range(19)}
    refused(
        desk.patch(path_of(jane), by="staff", json={"metadata": many}),
        422,
        "validation_error",
        ("#/metadata", "too_long"),
    )


def test_a_patch_reports_all_problems_together(desk, refused):
    jane = desk.customer()
    body = {
        "name": "",
        "phone_number": "x",
        "code": "OTHER",
        "version": 4,
        "phone": "0700 123 456",
        "locale": None,
    }
    refused(
        desk.patch(path_of(jane), by="staff", json=body),
        422,
        "validation_error",
        ("#/name", "blank"),
        ("#/phone_number", "invalid_phone"),
        ("#/code", "immutable_field"),
        ("#/version", "read_only_field"),
        ("#/phone", "unknown_field"),
        ("#/locale", "null_not_allowed"),
    )
    assert desk.get(path_of(jane), by="viewer").json() == jane


def test_another_ones_address_cannot_be_taken_by_a_change(desk, refused):
    desk.customer(email="jane@example.com")
    joe = desk.customer(name="Joe", email="joe@example.com")
    body = {"email": "Jane@Example.com"}
    refused(desk.patch(path_of(joe), by="staff", json=body), 409, "email_taken")
    own = desk.patch(path_of(joe), by="staff", json={"email": "JOE@example.com"})
    assert own.json()["email"] == "JOE@example.com"


# --- revisions ------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", ['"1"', "*", '"7", "1"', '"1" , W/"3"'])
def test_a_matching_revision_lets_the_writer_in(desk, tag):
    jane = desk.customer()
    answer = desk.patch(path_of(jane), by="staff", json={"name": "J"}, headers={"If-Match": tag})
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"2"'


@pytest.mark.parametrize("tag", ['"2"', 'W/"1"', '"2", "3"', "1", '"01"', '"abc"', ""])
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_another_revision_is_told_the_current_one_and_changes_nothing(desk, refused, method, tag):
    jane = desk.customer()
    body = {"json": {"name": "J"}} if method == "PATCH" else {}
    answer = desk.request(method, path_of(jane), by="admin", headers={"If-Match": tag}, **body)
    assert refused(answer, 412, "version_conflict")["current_version"] == 1
    assert desk.get(path_of(jane), by="viewer").json() == jane


def test_a_stale_revision_is_refused_even_for_a_no_op(desk, refused):
    jane = desk.customer()
    answer = desk.patch(path_of(jane), by="staff", json={}, headers={"If-Match": '"5"'})
    refused(answer, 412, "version_conflict")


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_desk_may_require_the_revision(open_desk, refused, method):
    desk = open_desk(require_if_match=True)
    jane = desk.customer()
    body = {"json": {"name": "J"}} if method == "PATCH" else {}
    answer = desk.request(method, path_of(jane), by="admin", **body)
    refused(answer, 428, "precondition_required", ("If-Match", "precondition_required"))
    sound = desk.request(method, path_of(jane), by="admin", headers={"If-Match": "*"}, **body)
    assert sound.is_success


def test_reads_ignore_if_none_match(desk):
    jane = desk.customer()
    answer = desk.get(path_of(jane), by="viewer", headers={"If-None-Match": '"1"'})
    assert answer.status_code == 200
    assert answer.json() == jane


# --- archiving ------------------------------------------------------------------------------


def test_an_archived_customer_is_out_of_lists_but_keeps_its_page(desk):
    jane = desk.customer(email="jane@example.com")
    desk.advance(hours=1)
    assert desk.delete(path_of(jane), by="admin").status_code == 204
    found = desk.get(path_of(jane), by="viewer").json()
    assert found["archived_at"] == "2026-11-23T10:00:00Z"
    assert found["version"] == 2
    assert desk.get(URL, by="viewer").json()["count"] == 0
    assert names(desk.get(URL + "?archived=true", by="viewer")) == ["Jane Smith"]
    assert names(desk.get(URL + "search/?q=jane", by="viewer")) == []
    assert names(desk.get(URL + "search/?q=jane&archived=all", by="viewer")) == ["Jane Smith"]


def test_archiving_again_is_fine_and_changes_nothing(desk):
    jane = desk.customer()
    desk.delete(path_of(jane), by="admin")
    once = desk.get(path_of(jane), by="viewer").json()
    desk.advance(hours=1)
    assert desk.delete(path_of(jane), by="admin").status_code == 204
    assert desk.get(path_of(jane), by="viewer").json() == once


def test_an_archived_customer_takes_no_changes_and_no_orders(desk, refused):
    jane = desk.customer()
    desk.delete(path_of(jane), by="admin")
    refused(desk.patch(path_of(jane), by="staff", json={"name": "J"}), 409, "customer_archived")
    refused(desk.patch(path_of(jane), by="staff", json={}), 409, "customer_archived")
    order = {"customer": jane["id"], "item": "Tea", "amount": "1"}
    refused(desk.post("/api/orders/", by="staff", json=order), 409, "customer_archived")


@pytest.mark.parametrize("steps", [(), ("processing",), ("processing", "shipped")])
def test_a_customer_with_open_orders_stays(desk, refused, steps):
    jane = desk.customer()
    desk.order(jane)
    desk.move(desk.order(jane), *steps)
    found = refused(desk.delete(path_of(jane), by="admin"), 409, "customer_has_open_orders")
    assert found["open_orders"] == 2


def test_finished_orders_do_not_hold_a_customer_and_stay_in_the_numbers(desk):
    jane = desk.customer()
    desk.move(desk.order(jane), "processing", "shipped", "delivered")
    desk.move(desk.order(jane), "cancelled")
    assert desk.delete(path_of(jane), by="admin").status_code == 204
    assert desk.get(path_of(jane) + "orders/", by="viewer").json()["count"] == 2
    stats = desk.get(path_of(jane) + "stats/", by="viewer").json()
    assert (stats["total_orders"], stats["total_spent"]) == (2, "999.99")


def test_the_address_of_an_archived_customer_is_free(desk):
    jane = desk.customer(email="jane@example.com")
    desk.delete(path_of(jane), by="admin")
    assert desk.customer(email="jane@example.com")["email"] == "jane@example.com"


# --- doing a thing once ---------------------------------------------------------------------


def test_a_repeated_request_gets_the_first_answer_byte_for_byte(desk):
    key = {"Idempotency-Key": "a key of mine"}
    first = desk.post(URL, by="staff", json=JANE, headers=key)
    assert "idempotent-replayed" not in first.headers
    body = {"phone_number": JANE["phone_number"], "name": JANE["name"]}
    desk.advance(hours=23)
    desk.patch(first.headers["location"], by="staff", json={"name": "Other"})
    second = desk.post("/api/customers", by="staff", json=body, headers=key)
    assert second.status_code == 201
    assert second.content == first.content
    assert second.headers["idempotent-replayed"] == "true"
    for name in ("location", "etag", "content-type"):
        assert second.headers[name] == first.headers[name]
    assert desk.get(URL, by="viewer").json()["count"] == 1


def test_a_key_is_forgotten_after_a_day(desk):
    key = {"Idempotency-Key": "k"}
    first = desk.post(URL, by="staff", json=JANE, headers=key)
    desk.advance(hours=24, seconds=1)
    second = desk.post(URL, by="staff", json=JANE, headers=key)
    assert second.status_code == 201
    assert second.json()["id"] != first.json()["id"]


def test_a_key_with_another_body_is_refused(desk, refused):
    key = {"Idempotency-Key": "k"}
    desk.post(URL, by="staff", json=JANE, headers=key)
    answer = desk.post(URL, by="staff", json={**JANE, "name": "Joe"}, headers=key)
    refused(answer, 422, "idempotency_key_reused")
    assert desk.get(URL, by="viewer").json()["count"] == 1


def test_keys_of_different_callers_do_not_meet(desk):
    key = {"Idempotency-Key": "k"}
    first = desk.post(URL, by="staff", json=JANE, headers=key)
    second = desk.post(URL, by="admin", json={**JANE, "name": "Joe"}, headers=key)
    assert (first.status_code, second.status_code) == (201, 201)


@pytest.mark.parametrize("key", ["", "k" * 256, "sch\u00f6n", "tab\there"])
def test_a_key_outside_its_alphabet_is_refused(desk, refused, key):
    headers = [(b"Idempotency-Key", key.encode("latin-1"))]
    answer = desk.post(URL, by=None, json=JANE, headers=_with_token(desk, headers))
    refused(answer, 400, "invalid_idempotency_key", ("Idempotency-Key", "invalid_idempotency_key"))
    assert desk.get(URL, by="viewer").json()["count"] == 0


def _with_token(desk, headers):
    return {
        "Authorization": f"Bearer {desk.token('staff')}",
        **{name.decode(): value for name, value in headers},
    }


def test_an_error_releases_the_key(desk, refused):
    key = {"Idempotency-Key": "k"}
    broken = {**JANE, "email": "nobody"}
    refused(desk.post(URL, by="staff", json=broken, headers=key), 422, "validation_error")
    assert desk.post(URL, by="staff", json=JANE, headers=key).status_code == 201
    desk.customer(email="joe@example.com")
    taken = {**JANE, "email": "joe@example.com"}
    other = {"Idempotency-Key": "other"}
    refused(desk.post(URL, by="staff", json=taken, headers=other), 409, "email_taken")
    assert desk.post(URL, by="staff", json=JANE, headers=other).status_code == 201


def test_parallel_equal_requests_make_one_customer(desk):
    async def all_at_once():
        send = desk.client.post
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "k"}
        return await asyncio.gather(*(send(URL, json=JANE, headers=headers) for _ in range(8)))

    token = desk.token("staff")
    answers = desk.run(all_at_once())
    done = [answer for answer in answers if answer.status_code == 201]
    assert done
    assert len({answer.content for answer in done}) == 1
    for answer in answers:
        if answer.status_code != 201:
            assert answer.status_code == 409
            assert answer.json()["code"] == "idempotency_in_progress"
            assert answer.headers["retry-after"] == "1"
    assert desk.get(URL, by="viewer").json()["count"] == 1


# --- lists ----------------------------------------------------------------------------------


@pytest.fixture
def crowd(desk):
    """Seven customers, two of them made in the same instant."""
    for number, name in enumerate(["Ann", "ben", "Cleo", "Ann", "Dan", "Eve", "Fay"]):
        desk.customer(name=name, email=f"{name.lower()}{number}@example.com")
        if number != 3:
            desk.advance(minutes=1)
    return desk


def walk(desk, url, follow="next"):
    pages = []
    while url is not None:
        answer = desk.get(url, by="viewer")
        assert answer.status_code == 200, answer.text
        pages.append(answer)
        url = answer.json()[follow]
    return pages


def ids(pages):
    return [row["id"] for page in pages for row in page.json()["results"]]


def test_following_next_gives_every_row_once_and_previous_leads_back(crowd, subtests):
    for limit, ordering in product(
        (1, 2, 3, 6, 7, 8), ("-created_at", "name", "-name", "created_at", "-updated_at")
    ):
        with subtests.test(limit=limit, ordering=ordering):
            query = f"limit={limit}&ordering={ordering}"
            whole = ids([crowd.get(f"{URL}?limit=100&ordering={ordering}", by="viewer")])
            pages = walk(crowd, f"{URL}?{query}")
            assert ids(pages) == whole
            assert len(set(whole)) == 7
            assert {page.json()["count"] for page in pages} == {7}
            assert pages[0].json()["previous"] is None
            if len(pages) > 1:
                back = walk(crowd, pages[-1].json()["previous"], "previous")
                last = len(pages[-1].json()["results"])
                assert ids(reversed(back)) == whole[: len(whole) - last]


def test_the_order_is_the_one_asked_for(crowd):
    by_time = names(crowd.get(f"{URL}?ordering=created_at", by="viewer"))
    assert by_time == ["Ann", "ben", "Cleo", "Ann", "Dan", "Eve", "Fay"]
    rows = crowd.get(URL, by="viewer").json()["results"]
    keys = [(datetime.fromisoformat(row["created_at"]), row["id"]) for row in rows]
    assert keys == sorted(keys, reverse=True)


def test_links_are_complete_urls_and_stand_in_the_header_too(crowd):
    url = f"{URL}?limit=3&archived=all&ordering=name"
    _, middle, _ = walk(crowd, url)
    body = middle.json()
    assert body["next"].startswith("http://desk.test/api/customers/?")
    assert "archived=all" in body["next"]
    expected = f'<{body["next"]}>; rel="next", <{body["previous"]}>; rel="prev"'
    assert middle.headers["link"] == expected
    assert "link" not in crowd.get(URL, by="viewer").headers


def test_a_page_has_25_rows_unless_asked_otherwise(desk):
    for number in range(27):
        desk.customer(name=f"No {number:02d}")
    first = desk.get(URL, by="viewer").json()
    assert len(first["results"]) == 25
    assert (first["count"], first["count_exact"]) == (27, True)
    assert len(desk.get(first["next"], by="viewer").json()["results"]) == 2
    assert len(desk.get(URL + "?page_size=2", by="viewer").json()["results"]) == 2
    assert len(desk.get(URL + "?page_size=2&limit=2", by="viewer").json()["results"]) == 2
    assert desk.get(URL + "?count=false", by="viewer").json()["count"] is None
    assert desk.get(URL + "?count=true", by="viewer").json()["count"] == 27


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=1&limit=2", "limit"),
        ("page_size=101", "page_size"),
        ("page_size=2&limit=3", "page_size"),
        ("count=no", "count"),
        ("ordering=phone_number", "ordering"),
        ("ordering=--name", "ordering"),
        ("ordering=name,created_at", "ordering"),
        ("locale=fr", "locale"),
        ("locale=en,", "locale"),
        ("sms_opt_out=1", "sms_opt_out"),
        ("sms_reachability=maybe", "sms_reachability"),
        ("archived=maybe", "archived"),
        ("phone=nonsense", "phone"),
        ("created_from=yesterday", "created_from"),
        ("created_from=2026-02-30", "created_from"),
        ("created_from=2026-11-23T09:00:00", "created_from"),
        ("created_to=2026-11-23T25:00:00Z", "created_to"),
        ("updated_since=1", "updated_since"),
        ("created_from=0001-01-01", "created_from"),
        ("tz=Mars/Base", "tz"),
        ("tz=../../etc/passwd", "tz"),
        ("tz=", "tz"),
    ],
)
def test_a_bad_parameter_is_named(desk, refused, query, parameter):
    answer = desk.get(f"{URL}?{query}", by="viewer")
    refused(answer, 400, "invalid_parameter", (parameter, "invalid_parameter"))


@pytest.fixture
def cursor(crowd):
    answer = crowd.get(f"{URL}?limit=2&locale=en", by="viewer")
    return answer.json()["next"].partition("cursor=")[2]


@pytest.mark.parametrize(
    "change",
    [
        lambda cursor: cursor[:-1] + ("A" if cursor[-1] != "A" else "B") + "",
        lambda cursor: ("A" if cursor[0] != "A" else "B") + cursor[1:],
        lambda cursor: cursor + "AAAA",
        lambda cursor: cursor[:20],
        lambda _: "",
        lambda _: "nonsense!",
        lambda _: "%C3%A9",
        lambda _: "AAAA" * 500,
    ],
)
def test_an_altered_cursor_is_refused(crowd, refused, cursor, change):
    answer = crowd.get(f"{URL}?limit=2&locale=en&cursor={change(cursor)}", by="viewer")
    refused(answer, 400, "invalid_cursor", ("cursor", "invalid_cursor"))


@pytest.mark.parametrize(
    "target",
    [
        f"{URL}?limit=2",
        f"{URL}?limit=2&locale=sw",
        f"{URL}?limit=2&locale=en&ordering=name",
        f"{URL}?limit=2&locale=en&archived=all",
        f"{URL}search/?limit=2&locale=en&q=ann",
        "/api/orders/?limit=2",
    ],
)
def test_a_cursor_of_another_list_or_with_other_filters_is_refused(crowd, refused, cursor, target):
    answer = crowd.get(f"{target}&cursor={cursor}", by="viewer")
    refused(answer, 400, "invalid_cursor")


def test_the_size_of_the_page_and_the_count_may_change_on_the_way(crowd, cursor):
    answer = crowd.get(f"{URL}?limit=4&count=false&locale=en&cursor={cursor}", by="viewer")
    assert len(answer.json()["results"]) == 4
    assert answer.json()["count"] is None


# --- filters --------------------------------------------------------------------------------


@pytest.fixture
def three(desk):
    """Ann on 20 November, Ben on the 21st, Cleo on the 23rd, local days."""
    desk.clock.set(datetime(2026, 11, 20, 12, 0, tzinfo=UTC))
    desk.customer(name="Ann", email="ann@example.com", phone_number="0711 000 001", code="A-1")
    # Already the 21st in Nairobi, still the 20th in London.
    desk.clock.set(datetime(2026, 11, 20, 22, 30, tzinfo=UTC))
    desk.customer(name="Ben", locale="sw", phone_number="0711 000 002", code="B-1")
    desk.clock.set(datetime(2026, 11, 23, 9, 0, tzinfo=UTC))
    desk.customer(
        name="Cleo", email="cleo@example.com", phone_number="0711 000 003", sms_opt_out=True
    )
    return desk


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("email=ANN@example.com", ["Ann"]),
        ("email=ann@example.com&email=CLEO@example.com", ["Cleo", "Ann"]),
        ("email=ann@example.com,cleo@example.com", ["Cleo", "Ann"]),
        ("phone=0711%20000%20001", ["Ann"]),
        ("phone=%2B254711000002", ["Ben"]),
        ("phone=+254711000002", ["Ben"]),
        ("phone=254711000003,0711000001", ["Cleo", "Ann"]),
        ("code=a-1", ["Ann"]),
        ("code=A-1,B-1", ["Ben", "Ann"]),
        ("code=%20a-1%20", ["Ann"]),
        ("locale=sw", ["Ben"]),
        ("locale=en,sw", ["Cleo", "Ben", "Ann"]),
        ("sms_opt_out=true", ["Cleo"]),
        ("sms_opt_out=false", ["Ben", "Ann"]),
        ("sms_reachability=unknown", ["Cleo", "Ben", "Ann"]),
        ("sms_reachability=reachable,blocked", []),
        ("locale=en&sms_opt_out=false", ["Ann"]),
        ("archived=false", ["Cleo", "Ben", "Ann"]),
        ("archived=all", ["Cleo", "Ben", "Ann"]),
        ("archived=true", []),
        ("created_from=2026-11-21", ["Cleo", "Ben"]),
        ("created_from=2026-11-21&tz=Europe/London", ["Cleo"]),
        ("created_to=2026-11-20", ["Ann"]),
        ("created_to=2026-11-20&tz=Europe/London", ["Ben", "Ann"]),
        ("created_from=2026-11-20&created_to=2026-11-20", ["Ann"]),
        ("created_from=2026-11-20T22:30:00Z", ["Cleo", "Ben"]),
        ("created_to=2026-11-20T22:30:00Z", ["Ann"]),
        ("created_from=2026-11-21T01:30:00%2B03:00", ["Cleo", "Ben"]),
        ("created_from=2026-11-21T01:30:00+03:00", ["Cleo", "Ben"]),
        ("created_from=2026-11-20T22:30:00.000001Z", ["Cleo"]),
        ("updated_since=2026-11-23T09:00:00z&ordering=updated_at", ["Cleo"]),
        ("updated_since=2026-11-21", ["Cleo", "Ben"]),
    ],
)
def test_a_filter_finds_what_it_says(three, query, found):
    assert names(three.get(f"{URL}?{query}", by="viewer")) == found


def test_a_delta_pull_sees_a_change_once_it_happened(three):
    ann = three.get(f"{URL}?code=A-1", by="viewer").json()["results"][0]
    three.advance(minutes=1)
    three.patch(path_of(ann), by="staff", json={"notes": "x"})
    answer = three.get(f"{URL}?updated_since=2026-11-23T09:01:00Z", by="viewer")
    assert names(answer) == ["Ann"]


# --- search ---------------------------------------------------------------------------------


@pytest.fixture
def shop(desk):
    desk.customer(email="jane@example.com", code="VIP-1")
    desk.customer(name="José Smithson", phone_number="0733 999 888")
    desk.customer(name="Percy 100%_\\ Sure", phone_number="0733 999 777")
    return desk


@pytest.mark.parametrize(
    ("q", "first", "field", "kind"),
    [
        ("jane smith", "Jane Smith", "name", "exact"),
        ("JANE", "Jane Smith", "name", "prefix"),
        ("smith", "Jane Smith", "name", "prefix"),
        ("mith jane", "Jane Smith", "name", "substring"),
        ("jane@example.com", "Jane Smith", "email", "exact"),
        ("vip-1", "Jane Smith", "code", "exact"),
        ("jose", "José Smithson", "name", "prefix"),
        ("JOSÉ", "José Smithson", "name", "prefix"),
        ("ohns", None, None, None),
        ("0700 123 456", "Jane Smith", "phone_number", "exact"),
        ("+254700123456", "Jane Smith", "phone_number", "exact"),
        ("254700123456", "Jane Smith", "phone_number", "exact"),
        ("(0700) 123-456", "Jane Smith", "phone_number", "exact"),
        ("0700", "Jane Smith", "phone_number", "prefix"),
        ("3456", "Jane Smith", "phone_number", "substring"),
        ("100%_\\", "Percy 100%_\\ Sure", "name", "prefix"),
        ("%%", None, None, None),
        ("jane 3456", "Jane Smith", "name", "substring"),
        ("jane nobody", None, None, None),
    ],
)
def test_search_finds_by_words_addresses_codes_and_every_spelling_of_a_phone(
    shop, q, first, field, kind
):
    answer = shop.request("GET", URL + "search/", by="viewer", params={"q": q})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    if first is None:
        assert results == []
    else:
        assert results[0]["name"] == first
        assert results[0]["match"] == {"field": field, "kind": kind}


def test_search_ranks_exact_before_prefix_before_substring_and_then_the_newer(desk):
    for name in ("Ad Anna", "Joanna", "Anna", "Anna B", "Hanna"):
        desk.customer(name=name)
        desk.advance(minutes=1)
    answer = desk.get(URL + "search/?q=anna", by="viewer")
    assert names(answer) == ["Anna", "Anna B", "Ad Anna", "Hanna", "Joanna"]
    assert ids(walk(desk, URL + "search/?q=anna&limit=2")) == ids([answer])


@pytest.mark.parametrize(
    ("query", "code", "parameter"),
    [
        ("", "missing_parameter", "q"),
        ("?q=", "query_too_short", "q"),
        ("?q=a", "query_too_short", "q"),
        ("?q=%20a%20", "query_too_short", "q"),
        ("?q=" + "a" * 101, "invalid_parameter", "q"),
        ("?q=a%00b", "invalid_parameter", "q"),
        ("?q=anna&ordering=name", "unknown_parameter", "ordering"),
        ("?q=anna&limit=0", "invalid_parameter", "limit"),
        ("?q=anna&q=ben", "invalid_parameter", "q"),
    ],
)
def test_a_search_that_cannot_be_run_is_refused(desk, refused, query, code, parameter):
    answer = desk.get(URL + "search/" + query, by="viewer")
    refused(answer, 400, code, (parameter, code))


def test_search_goes_together_with_filters(shop):
    assert names(shop.get(URL + "search/?q=smith&code=vip-1", by="viewer")) == ["Jane Smith"]
    assert names(shop.get(URL + "search/?q=smith&locale=sw", by="viewer")) == []


# --- numbers --------------------------------------------------------------------------------


def test_the_numbers_of_a_customer_add_up(desk):
    jane, joe = desk.customer(), desk.customer(name="Joe")
    desk.order(joe, amount="5000")
    desk.move(desk.order(jane, amount="999.99"), "processing", "shipped", "delivered")
    desk.advance(minutes=1)
    desk.move(desk.order(jane, amount="100.01", quantity=2), "processing")
    desk.move(desk.order(jane, amount="250"), "cancelled")
    desk.order(jane, amount="40", currency="USD")
    gone = desk.order(jane, amount="7")
    assert desk.delete(f"/api/orders/{gone['id']}/", by="admin").status_code == 204
    desk.dispatch()
    stats = desk.get(path_of(jane) + "stats/", by="viewer").json()
    sms = stats.pop("sms")
    assert stats == {
        "customer": jane["id"],
        "as_of": "2026-11-23T09:01:00Z",
        "currency": "KES",
        "total_orders": 3,
        "open_orders": 1,
        "total_spent": "1200.01",
        "average_order_value": "600.01",
        "gross_amount": "1450.01",
        "cancelled_amount": "250.00",
        "largest_order": "999.99",
        "orders_by_status": {
            "pending": 0,
            "processing": 1,
            "shipped": 0,
            "delivered": 1,
            "cancelled": 1,
        },
        "first_order_at": "2026-11-23T09:00:00Z",
        "last_order_at": "2026-11-23T09:01:00Z",
        "other_currencies": [{"currency": "USD", "total_orders": 1, "total_spent": "40.00"}],
    }
    # Created, shipped, delivered; created; created, cancelled; created in USD. What the deleted
    # order would have sent does not count.
    assert (sms["total"], sms["skipped"]) == (7, 0)
    assert sms["cost"] == [{"currency": "KES", "amount": "5.60"}]
    usd = desk.get(path_of(jane) + "stats/?currency=USD", by="viewer").json()
    assert (usd["total_spent"], usd["total_orders"]) == ("40.00", 1)
    assert usd["other_currencies"][0]["currency"] == "KES"


def test_a_customer_without_orders_has_empty_numbers(desk):
    stats = desk.get(path_of(desk.customer()) + "stats/", by="viewer").json()
    assert stats["total_orders"] == 0
    assert stats["total_spent"] == "0.00"
    for name in ("average_order_value", "largest_order", "first_order_at", "last_order_at"):
        assert stats[name] is None


@pytest.mark.parametrize("currency", ["EUR", "kes", "", "KES,USD"])
def test_numbers_in_a_currency_the_desk_does_not_deal_in_are_refused(desk, refused, currency):
    url = path_of(desk.customer()) + f"stats/?currency={currency}"
    answer = desk.get(url, by="viewer")
    refused(answer, 400, "invalid_parameter", ("currency", "invalid_parameter"))


def test_the_orders_of_a_customer_are_theirs_alone(desk, refused):
    jane, joe = desk.customer(), desk.customer(name="Joe")
    mine = [desk.order(jane)["id"], desk.order(jane, item="Tea")["id"]]
    desk.order(joe)
    url = path_of(jane) + "orders/"
    answer = desk.get(url + "?ordering=created_at", by="viewer")
    assert sorted(ids([answer])) == sorted(mine)
    assert ids(walk(desk, url + "?limit=1")) == ids([desk.get(url, by="viewer")])
    expanded = desk.get(url + "?expand=customer", by="viewer").json()["results"]
    assert {row["customer_details"]["name"] for row in expanded} == {"Jane Smith"}
    assert desk.get(url + "?status=shipped", by="viewer").json()["count"] == 0
    answer = desk.get(f"{url}?customer={joe['id']}", by="viewer")
    refused(answer, 400, "unknown_parameter", ("customer", "unknown_parameter"))


def test_a_cursor_of_one_customers_orders_does_not_open_another_ones(desk, refused):
    jane, joe = desk.customer(), desk.customer(name="Joe")
    for whose in (jane, jane, joe, joe):
        desk.order(whose)
    first = desk.get(path_of(jane) + "orders/?limit=1", by="viewer").json()["next"]
    foreign = first.replace(jane["id"], joe["id"])
    refused(desk.get(foreign, by="viewer"), 400, "invalid_cursor")
