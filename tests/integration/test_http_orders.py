"""`/api/orders/` as its callers see it; every answer is also held against the document."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product

import pytest

URL = "/api/orders/"
NOBODY = "0199f3a2-5c1e-7c3a-9d57-3f0f6f0c2b11"
STATUSES = ("pending", "processing", "shipped", "delivered", "cancelled")
# How to bring a new order there.
WAY_TO = {
    "pending": (),
    "processing": ("processing",),
    "shipped": ("processing", "shipped"),
    "delivered": ("processing", "shipped", "delivered"),
    "cancelled": ("cancelled",),
}
EDGES = {
    "pending": ["processing", "cancelled"],
    "processing": ["shipped", "cancelled"],
    "shipped": ["delivered"],
    "delivered": [],
    "cancelled": [],
}


def path_of(order, more=""):
    return f"{URL}{order['id']}/{more}"


def order_in(desk, status, customer=None):
    return desk.move(desk.order(customer), *WAY_TO[status])


def ids(*pages):
    return [row["id"] for page in pages for row in page.json()["results"]]


def items(answer):
    assert answer.status_code == 200, answer.text
    return [row["item"] for row in answer.json()["results"]]


def walk(desk, url, follow="next"):
    pages = []
    while url is not None:
        answer = desk.get(url, by="viewer")
        assert answer.status_code == 200, answer.text
        pages.append(answer)
        url = answer.json()[follow]
    return pages


@pytest.fixture
def body(desk):
    return {"customer": desk.customer()["id"], "item": "Laptop Computer", "amount": "999.99"}


# --- creating -------------------------------------------------------------------------------


def test_an_order_is_taken_with_its_total_its_number_and_one_queued_text(desk, body):
    answer = desk.post(URL, by="staff", json={**body, "quantity": 3, "notes": "Urgent"})
    assert answer.status_code == 201
    found = answer.json()
    assert answer.headers["location"] == f"/api/orders/{found['id']}/"
    assert answer.headers["etag"] == '"1"'
    assert found == {
        "id": found["id"],
        "order_number": found["order_number"],
        "customer": body["customer"],
        "item": "Laptop Computer",
        "amount": "999.99",
        "quantity": 3,
        "total_amount": "2999.97",
        "currency": "KES",
        "status": "pending",
        "allowed_transitions": ["processing", "cancelled"],
        "can_be_cancelled": True,
        "notes": "Urgent",
        "cancellation": None,
        "metadata": {},
        "sms": {
            "event": "order_created",
            "status": "queued",
            "notification": found["sms"]["notification"],
            "sent_at": None,
            "delivered_at": None,
        },
        "created_at": "2026-11-23T09:00:00Z",
        "updated_at": "2026-11-23T09:00:00Z",
        "status_changed_at": "2026-11-23T09:00:00Z",
        "version": 1,
    }
    desk.dispatch()
    assert [sms.to for sms in desk.gateway.sent] == ["+254700123456"]
    assert found["order_number"] in desk.gateway.sent[0].text


def test_the_text_of_an_order_goes_from_queued_to_sent_without_a_new_revision(desk):
    order = desk.order()
    desk.advance(seconds=2)
    desk.dispatch()
    again = desk.get(path_of(order), by="viewer")
    assert again.json()["sms"]["status"] == "sent"
    assert again.json()["sms"]["sent_at"] == "2026-11-23T09:00:02Z"
    assert again.json()["version"] == 1
    assert again.headers["etag"] == '"1"'


def test_trouble_with_the_gateway_does_not_reach_the_one_who_orders(desk):
    from savannah.domain.notification import UnknownOutcome

    desk.gateway.always_answer(UnknownOutcome(cause="read_timeout"))
    order = desk.order()
    desk.dispatch()
    assert desk.get(path_of(order), by="viewer").json()["sms"]["status"] == "unknown"


def test_an_order_of_a_customer_who_wants_no_texts_is_taken_and_its_text_skipped(desk):
    order = desk.order(desk.customer(sms_opt_out=True))
    assert order["sms"]["status"] == "skipped"
    desk.dispatch()
    assert desk.gateway.sent == []


def test_nobody_is_texted_when_the_caller_says_so(desk):
    order = desk.order(notify=False)
    assert order["sms"]["status"] == "skipped"
    moved = desk.patch(
        path_of(order, "update_status/"),
        by="staff",
        json={"status": "cancelled", "notify": False},
    ).json()
    assert moved["sms"]["event"] == "order_cancelled"
    assert moved["sms"]["status"] == "skipped"
    desk.dispatch()
    assert desk.gateway.sent == []


@pytest.mark.parametrize(
    "case",
    [
        ("999.99", 1, "999.99", "999.99"),
        ("0.01", 1, "0.01", "0.01"),
        ("0.1", 3, "0.10", "0.30"),
        ("99999999.99", 100, "99999999.99", "9999999999.00"),
        ("00012.50", 2, "12.50", "25.00"),
        (5, 2, "5.00", "10.00"),
        ("1.10", 100_000, "1.10", "110000.00"),
    ],
)
def test_money_is_exact_and_shown_with_two_decimals(desk, body, case):
    amount, quantity, shown, total = case
    given = {**body, "amount": amount, "quantity": quantity}
    found = desk.post(URL, by="staff", json=given).json()
    assert (found["amount"], found["total_amount"]) == (shown, total)
    assert Decimal(found["amount"]) * quantity == Decimal(found["total_amount"])


@pytest.mark.parametrize(
    ("currency", "amount", "shown"),
    [("UGX", "10", "10.00"), ("RWF", "10.00", "10.00"), ("USD", "10.5", "10.50")],
)
def test_an_order_may_be_in_another_currency(desk, body, currency, amount, shown):
    given = {**body, "currency": currency, "amount": amount}
    found = desk.post(URL, by="staff", json=given).json()
    assert (found["currency"], found["amount"]) == (currency, shown)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("customer", "customer-uuid", "invalid_uuid"),
        ("customer", NOBODY, "customer_not_found"),
        ("customer", "{0199f3a2-5c1e-7c3a-9d57-3f0f6f0c2b11}", "invalid_uuid"),
        ("customer", "", "invalid_uuid"),
        ("customer", 5, "wrong_type"),
        ("customer", None, "null_not_allowed"),
        ("item", "", "blank"),
        ("item", "x" * 256, "too_long"),
        ("item", "a\tb", "invalid_format"),
        ("item", ["Tea"], "wrong_type"),
        ("item", None, "null_not_allowed"),
        ("amount", 999.99, "amount_not_string"),
        ("amount", 1.0, "amount_not_string"),
        ("amount", 1e3, "amount_not_string"),
        ("amount", "999.990", "too_many_decimals"),
        ("amount", "1.000", "too_many_decimals"),
        ("amount", "0.001", "too_many_decimals"),
        ("amount", "1e3", "invalid_format"),
        ("amount", "-5", "invalid_format"),
        ("amount", "+5", "invalid_format"),
        ("amount", " 5", "invalid_format"),
        ("amount", "5\n", "invalid_format"),
        ("amount", "1,000.00", "invalid_format"),
        ("amount", "5.", "invalid_format"),
        ("amount", ".5", "invalid_format"),
        ("amount", "", "invalid_format"),
        ("amount", "٥", "invalid_format"),
        ("amount", "1" * 21, "invalid_format"),
        ("amount", "NaN", "invalid_format"),
        ("amount", "0", "amount_out_of_range"),
        ("amount", "0.00", "amount_out_of_range"),
        ("amount", "100000000", "amount_out_of_range"),
        ("amount", "1" * 20, "amount_out_of_range"),
        ("amount", 0, "amount_out_of_range"),
        ("amount", -1, "amount_out_of_range"),
        ("amount", 10**30, "amount_out_of_range"),
        ("amount", True, "wrong_type"),
        ("amount", None, "null_not_allowed"),
        ("quantity", 0, "quantity_out_of_range"),
        ("quantity", -1, "quantity_out_of_range"),
        ("quantity", 100_001, "quantity_out_of_range"),
        ("quantity", 10**30, "quantity_out_of_range"),
        ("quantity", 1.5, "wrong_type"),
        ("quantity", 1.0, "wrong_type"),
        ("quantity", "1", "wrong_type"),
        ("quantity", True, "wrong_type"),
        ("quantity", None, "null_not_allowed"),
        ("currency", "EUR", "unsupported_currency"),
        ("currency", "kes", "unsupported_currency"),
        ("currency", 1, "wrong_type"),
        ("notes", "x" * 2001, "too_long"),
        ("notes", "a\u0007b", "invalid_format"),
        ("metadata", {"a": 1}, "wrong_type"),
        ("notify", "yes", "wrong_type"),
        ("status", "shipped", "read_only_field"),
        ("order_number", "ORD-AAAAAA-A", "read_only_field"),
        ("total_amount", "1.00", "read_only_field"),
        ("sms", None, "read_only_field"),
        ("version", 2, "read_only_field"),
        ("price", "5", "unknown_field"),
        ("customer_id", NOBODY, "unknown_field"),
    ],
)
def test_a_broken_field_is_named_with_its_code_and_nothing_is_kept(
    desk, refused, field, value, code
):
    body = {"customer": desk.customer()["id"], "item": "Tea", "amount": "1"}
    answer = desk.post(URL, by="staff", json={**body, field: value})
    refused(answer, 422, "validation_error", (f"#/{field}", code))
    assert desk.get(URL, by="viewer").json()["count"] == 0
    desk.dispatch()
    assert desk.gateway.sent == []


def test_a_total_beyond_the_limit_is_refused(desk, refused, body):
    given = {**body, "amount": "99999999.99", "quantity": 101}
    refused(
        desk.post(URL, by="staff", json=given),
        422,
        "validation_error",
        ("#/amount", "total_out_of_range"),
    )


@pytest.mark.parametrize("currency", ["UGX", "RWF"])
def test_a_currency_without_cents_takes_none(desk, refused, body, currency):
    given = {**body, "currency": currency, "amount": "10.50"}
    answer = desk.post(URL, by="staff", json=given)
    refused(answer, 422, "validation_error", ("#/amount", "too_many_decimals"))


def test_all_broken_fields_are_reported_together(desk, refused):
    given = {
        "customer": "x",
        "item": " ",
        "amount": "x",
        "quantity": 0,
        "currency": "XXX",
        "notes": 1,
        "metadata": 1,
        "notify": 1,
    }
    refused(
        desk.post(URL, by="staff", json=given),
        422,
        "validation_error",
        ("#/customer", "invalid_uuid"),
        ("#/item", "blank"),
        ("#/amount", "invalid_format"),
        ("#/quantity", "quantity_out_of_range"),
        ("#/currency", "unsupported_currency"),
        ("#/notes", "wrong_type"),
        ("#/metadata", "wrong_type"),
        ("#/notify", "wrong_type"),
    )


def test_an_unknown_customer_is_reported_with_the_other_slips(desk, refused):
    given = {"customer": NOBODY, "item": "", "amount": 1.5}
    refused(
        desk.post(URL, by="staff", json=given),
        422,
        "validation_error",
        ("#/customer", "customer_not_found"),
        ("#/item", "blank"),
        ("#/amount", "amount_not_string"),
    )


def test_missing_members_are_all_named(desk, refused):
    refused(
        desk.post(URL, by="staff", json={}),
        422,
        "validation_error",
        ("#/customer", "required"),
        ("#/item", "required"),
        ("#/amount", "required"),
    )


def test_the_customer_may_be_named_in_any_case(desk, body):
    given = {**body, "customer": body["customer"].upper()}
    assert desk.post(URL, by="staff", json=given).json()["customer"] == body["customer"]


def test_broken_fields_count_before_the_archive(desk, refused):
    jane = desk.customer()
    desk.delete(f"/api/customers/{jane['id']}/", by="admin")
    given = {"customer": jane["id"], "item": "Tea", "amount": "0"}
    refused(desk.post(URL, by="staff", json=given), 422, "validation_error")
    refused(desk.post(URL, by="staff", json={**given, "amount": "1"}), 409, "customer_archived")


# --- permissions and the order of checks ----------------------------------------------------

WRITES = [
    ("POST", "", "viewer", "orders:write"),
    ("PATCH", "{id}/", "viewer", "orders:write"),
    ("DELETE", "{id}/", "staff", "orders:delete"),
    ("PATCH", "{id}/update_status/", "viewer", "orders:write"),
    ("POST", "{id}/cancel/", "viewer", "orders:write"),
]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: f"{write[0]} {write[1]}")
def test_a_write_needs_a_token_and_then_its_scope(desk, refused, write):
    method, path, may_not, scope = write
    order = desk.order()
    target = URL + path.format(id=order["id"])
    refused(desk.request(method, target), 401, "authentication_required")
    found = refused(desk.request(method, target, by=may_not), 403, "insufficient_scope")
    assert found["required_scope"] == scope
    assert desk.get(path_of(order), by="viewer").json()["version"] == 1


@pytest.mark.parametrize("path", ["", "{id}/", "search/?q=laptop", "analytics/"])
def test_everyone_with_a_role_may_read_and_nobody_without_a_token(desk, refused, path):
    target = URL + path.format(id=desk.order()["id"])
    assert desk.get(target, by="viewer").status_code == 200
    refused(desk.get(target), 401, "authentication_required")


MOVES = [("PATCH", ""), ("PATCH", "update_status/"), ("POST", "cancel/")]


@pytest.mark.parametrize(("method", "more"), MOVES)
def test_a_missing_order_outranks_every_fault_of_the_request(desk, refused, method, more):
    target = f"{URL}{NOBODY}/{more}"
    kind = {"Content-Type": "text/plain"}
    refused(desk.request(method, target, by="staff", json={"x": 1}), 404, "not_found")
    refused(desk.request(method, target, by="staff", content=b"{", headers=kind), 404, "not_found")
    refused(desk.request(method, target + "?x=1", by="staff", json={}), 404, "not_found")
    stale = {"If-Match": '"9"'}
    refused(desk.request(method, target, by="staff", json={}, headers=stale), 404, "not_found")


def test_reads_and_deletes_of_a_missing_order_are_not_found_whatever_else(desk, refused):
    refused(desk.get(f"{URL}{NOBODY}/?expand=x", by="viewer"), 404, "not_found")
    refused(desk.delete(f"{URL}{NOBODY}/?x=1", by="admin"), 404, "not_found")
    refused(desk.get(f"{URL}nope/", by="viewer"), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "more", "broken"),
    [
        ("PATCH", "", {"quantity": 0}),
        ("PATCH", "update_status/", {"status": "lost"}),
        ("POST", "cancel/", {"reason": "boredom"}),
    ],
)
def test_fields_count_before_the_revision_and_the_revision_before_the_state(
    desk, refused, method, more, broken
):
    order = order_in(desk, "delivered")
    sound = {"": {"item": "Tea"}, "update_status/": {"status": "pending"}, "cancel/": {}}[more]
    stale = {"If-Match": '"1"'}
    target = path_of(order, more)
    answer = desk.request(method, target, by="staff", json=broken, headers=stale)
    refused(answer, 422, "validation_error")
    answer = desk.request(method, target, by="staff", json=sound, headers=stale)
    assert refused(answer, 412, "version_conflict")["current_version"] == 4
    answer = desk.request(method, target, by="staff", json=sound)
    assert answer.status_code == 409


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", ""),
        ("GET", "search/"),
        ("GET", "analytics/"),
        ("GET", "{id}/"),
        ("PATCH", "{id}/"),
        ("DELETE", "{id}/"),
        ("PATCH", "{id}/update_status/"),
        ("POST", "{id}/cancel/"),
    ],
)
def test_an_unknown_query_parameter_never_passes_silently(desk, refused, method, path):
    order = desk.order()
    target = URL + path.format(id=order["id"])
    body = {} if method in ("GET", "DELETE") else {"json": {}}
    answer = desk.request(method, f"{target}?notify=false", by="admin", **body)
    refused(answer, 400, "unknown_parameter", ("notify", "unknown_parameter"))
    assert desk.get(path_of(order), by="viewer").json()["version"] == 1


def test_literal_routes_win_over_ids(desk):
    desk.order()
    assert "summary" in desk.get(URL + "analytics/", by="viewer").json()
    assert "results" in desk.get(URL + "search/?q=laptop", by="viewer").json()
    assert "summary" in desk.get("/api/orders/analytics", by="viewer").json()
    assert "results" in desk.get("/api/orders/search?q=laptop", by="viewer").json()


def test_ids_are_taken_in_any_case(desk):
    order = desk.order()
    upper = order["id"].upper()
    assert desk.get(f"{URL}{upper}/", by="viewer").json()["id"] == order["id"]
    moved = desk.post(f"{URL}{upper}/cancel/", by="staff")
    assert moved.json()["status"] == "cancelled"


# --- changing -------------------------------------------------------------------------------


def test_a_patch_changes_what_it_names_and_computes_the_total_anew(desk):
    order = desk.order()
    desk.advance(minutes=1)
    answer = desk.patch(path_of(order), by="staff", json={"quantity": 2, "notes": "Blue"})
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"2"'
    assert answer.json() == {
        **order,
        "quantity": 2,
        "notes": "Blue",
        "total_amount": "1999.98",
        "updated_at": "2026-11-23T09:01:00Z",
        "version": 2,
    }
    desk.dispatch()
    assert len(desk.gateway.sent) == 1


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"item": " Laptop Computer "},
        {"amount": "999.99"},
        {"amount": "0999.99", "quantity": 1, "notes": " ", "metadata": {}},
        {"metadata": {"gone": None}},
        {"currency": "KES"},
    ],
)
def test_an_effective_no_op_changes_nothing(desk, change):
    order = desk.order()
    desk.advance(minutes=1)
    answer = desk.patch(path_of(order), by="staff", json=change)
    assert answer.status_code == 200
    assert answer.json() == order


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("status", "shipped", "use_update_status"),
        ("status", "pending", "use_update_status"),
        ("customer", NOBODY, "immutable_field"),
        ("currency", "USD", "immutable_field"),
        ("item", None, "null_not_allowed"),
        ("item", "", "blank"),
        ("amount", 1.5, "amount_not_string"),
        ("amount", None, "null_not_allowed"),
        ("quantity", 0, "quantity_out_of_range"),
        ("notes", None, "null_not_allowed"),
        ("metadata", None, "null_not_allowed"),
        ("metadata", {"a": 1}, "wrong_type"),
        ("total_amount", "5.00", "read_only_field"),
        ("id", NOBODY, "read_only_field"),
        ("notify", False, "unknown_field"),
        ("colour", "red", "unknown_field"),
    ],
)
def test_a_broken_change_is_named_with_its_code(desk, refused, field, value, code):
    order = desk.order()
    answer = desk.patch(path_of(order), by="staff", json={field: value})
    refused(answer, 422, "validation_error", (f"#/{field}", code))
    assert desk.get(path_of(order), by="staff").json() == order


def test_a_change_may_not_lift_the_total_over_its_limit(desk, refused):
    order = desk.order(amount="99999999.99")
    answer = desk.patch(path_of(order), by="staff", json={"quantity": 101})
    refused(answer, 422, "validation_error", ("#/amount", "total_out_of_range"))


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        ("processing", ["notes", "metadata"]),
        ("shipped", ["notes", "metadata"]),
        ("delivered", []),
        ("cancelled", []),
    ],
)
def test_what_can_be_edited_depends_on_where_the_order_stands(desk, refused, status, fields):
    order = order_in(desk, status)
    changes = {
        "item": "Tea",
        "amount": "5",
        "quantity": 5,
        "notes": "changed",
        "metadata": {"a": "1"},
    }
    for name, value in changes.items():
        answer = desk.patch(path_of(order), by="staff", json={name: value})
        if name in fields:
            assert answer.status_code == 200
            assert answer.json()[name] == value
        else:
            found = refused(answer, 409, "order_not_editable")
            assert found["current_status"] == status
            assert found["editable_fields"] == fields


def test_a_closed_field_may_be_sent_as_it_is(desk):
    order = order_in(desk, "shipped")
    answer = desk.patch(path_of(order), by="staff", json={"item": order["item"], "notes": "n"})
    assert answer.status_code == 200
    assert answer.json()["notes"] == "n"


# --- the state machine ----------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), list(product(STATUSES, STATUSES)))
def test_an_order_moves_along_the_table_and_nowhere_else(desk, refused, source, target):
    order = desk.get(path_of(order_in(desk, source)), by="staff").json()
    desk.advance(minutes=1)
    answer = desk.patch(path_of(order, "update_status/"), by="staff", json={"status": target})
    if target == source:
        assert answer.status_code == 200
        assert answer.json() == order
    elif target in EDGES[source]:
        found = answer.json()
        assert answer.status_code == 200
        assert answer.headers["etag"] == f'"{order["version"] + 1}"'
        assert found["status"] == target
        assert found["version"] == order["version"] + 1
        assert found["status_changed_at"] == "2026-11-23T09:01:00Z"
        assert found["allowed_transitions"] == EDGES[target]
        assert found["can_be_cancelled"] is ("cancelled" in EDGES[target])
    elif (source, target) == ("shipped", "cancelled"):
        found = refused(answer, 403, "insufficient_scope")
        assert found["required_scope"] == "orders:override"
    else:
        found = refused(answer, 409, "invalid_transition")
        assert found["current_status"] == source
        assert found["allowed_transitions"] == EDGES[source]
    if answer.status_code != 200:
        assert desk.get(path_of(order), by="staff").json()["version"] == order["version"]


def test_what_comes_next_is_what_the_caller_may_do(desk):
    order = order_in(desk, "shipped")
    shown = {
        role: desk.get(path_of(order), by=role).json()["allowed_transitions"]
        for role in ("viewer", "staff", "admin")
    }
    assert shown == {
        "viewer": [],
        "staff": ["delivered"],
        "admin": ["delivered", "cancelled"],
    }
    admin = desk.get(path_of(order), by="admin").json()
    assert admin["can_be_cancelled"] is True
    assert desk.get(path_of(order), by="staff").json()["can_be_cancelled"] is False


def test_the_transitions_in_a_refusal_are_those_of_the_caller(desk, refused):
    order = order_in(desk, "shipped")
    for role, allowed in (("staff", ["delivered"]), ("admin", ["delivered", "cancelled"])):
        answer = desk.patch(path_of(order, "update_status/"), by=role, json={"status": "pending"})
        assert refused(answer, 409, "invalid_transition")["allowed_transitions"] == allowed


def test_each_step_sends_the_text_that_belongs_to_it(desk):
    order = desk.move(desk.order(), "processing")
    assert order["sms"]["event"] == "order_created"
    desk.dispatch()
    for status in ("shipped", "delivered"):
        order = desk.move(order, status)
        assert order["sms"]["event"] == f"order_{status}"
        assert order["sms"]["status"] == "queued"
        desk.dispatch()
    assert len(desk.gateway.sent) == 3


@pytest.mark.parametrize(
    ("given", "place", "code"),
    [
        ({}, "#/status", "required"),
        ({"status": None}, "#/status", "null_not_allowed"),
        ({"status": "lost"}, "#/status", "invalid_choice"),
        ({"status": "SHIPPED"}, "#/status", "invalid_choice"),
        ({"status": 1}, "#/status", "wrong_type"),
        ({"status": "cancelled", "reason": "boredom"}, "#/reason", "invalid_choice"),
        ({"status": "cancelled", "reason": None}, "#/reason", "null_not_allowed"),
        ({"status": "processing", "reason": "other"}, "#/reason", "invalid_choice"),
        ({"status": "processing", "note": 5}, "#/note", "wrong_type"),
        ({"status": "processing", "note": "x" * 2001}, "#/note", "too_long"),
        ({"status": "processing", "notify": "no"}, "#/notify", "wrong_type"),
        ({"status": "processing", "notes": "x"}, "#/notes", "unknown_field"),
    ],
)
def test_a_broken_status_change_is_named_with_its_code(desk, refused, given, place, code):
    order = desk.order()
    answer = desk.patch(path_of(order, "update_status/"), by="staff", json=given)
    refused(answer, 422, "validation_error", (place, code))
    assert desk.get(path_of(order), by="staff").json() == order


def test_all_slips_of_a_status_change_come_together(desk, refused):
    given = {"status": "lost", "reason": "x", "note": 1, "notify": 1}
    refused(
        desk.patch(path_of(desk.order(), "update_status/"), by="staff", json=given),
        422,
        "validation_error",
        ("#/status", "invalid_choice"),
        ("#/reason", "invalid_choice"),
        ("#/note", "wrong_type"),
        ("#/notify", "wrong_type"),
    )


# --- cancelling -----------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"", b"{}", b"  "])
def test_cancelling_needs_no_body(desk, raw):
    order = desk.order()
    answer = desk.post(path_of(order, "cancel/"), by="staff", content=raw, headers=JSON)
    assert answer.status_code == 200
    found = answer.json()
    assert found["status"] == "cancelled"
    assert found["cancellation"]["reason"] == "other"
    assert found["cancellation"]["note"] is None
    assert found["cancellation"]["cancelled_at"] == "2026-11-23T09:00:00Z"
    assert found["cancellation"]["cancelled_by"].startswith("user:")
    assert found["sms"]["event"] == "order_cancelled"


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("status", ["pending", "processing"])
def test_a_cancellation_keeps_its_reason_and_note(desk, status):
    order = order_in(desk, status)
    given = {"reason": "customer_request", "note": " Found it cheaper "}
    found = desk.post(path_of(order, "cancel/"), by="staff", json=given).json()
    assert found["cancellation"]["reason"] == "customer_request"
    assert found["cancellation"]["note"] == "Found it cheaper"
    assert (found["allowed_transitions"], found["can_be_cancelled"]) == ([], False)


def test_cancelling_a_cancelled_order_changes_nothing(desk):
    order = desk.order()
    first = desk.post(path_of(order, "cancel/"), by="staff", json={"reason": "duplicate"}).json()
    desk.advance(minutes=1)
    again = desk.post(path_of(order, "cancel/"), by="staff", json={"reason": "fraud"})
    assert again.status_code == 200
    assert again.json() == first
    by_status = desk.patch(
        path_of(order, "update_status/"), by="viewer", json={"status": "cancelled"}
    )
    assert by_status.status_code == 403
    desk.dispatch()
    assert len(desk.gateway.sent) == 2


def test_a_delivered_order_cannot_be_cancelled_by_anybody(desk, refused):
    order = order_in(desk, "delivered")
    for role in ("staff", "admin"):
        answer = desk.post(path_of(order, "cancel/"), by=role, json={"reason": "lost"})
        found = refused(answer, 409, "invalid_transition")
        assert found["allowed_transitions"] == []


def test_only_an_administrator_cancels_a_shipped_order_and_must_say_why(desk, refused):
    order = order_in(desk, "shipped")
    target = path_of(order, "cancel/")
    refused(desk.post(target, by="staff"), 403, "insufficient_scope")
    refused(desk.post(target, by="admin"), 422, "validation_error", ("#/reason", "reason_required"))
    refused(
        desk.post(target, by="admin", json={"reason": "customer_request"}),
        422,
        "validation_error",
        ("#/reason", "invalid_choice"),
    )
    found = desk.post(target, by="admin", json={"reason": "returned"})
    assert found.status_code == 200
    assert found.json()["cancellation"]["reason"] == "returned"


@pytest.mark.parametrize("reason", ["delivery_failed", "returned", "lost"])
def test_the_three_reasons_work_through_both_doors(desk, reason):
    for more, given in (
        ("cancel/", {"reason": reason}),
        ("update_status/", {"status": "cancelled", "reason": reason}),
    ):
        order = order_in(desk, "shipped")
        method = "POST" if more == "cancel/" else "PATCH"
        answer = desk.request(method, path_of(order, more), by="admin", json=given)
        assert answer.json()["cancellation"]["reason"] == reason


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'{"reason": "boredom"}',
        b'{"colour": "red"}',
        b'{"reason": "lost"}',
        b'{"note": 5}',
    ],
)
def test_staff_may_not_cancel_a_shipped_order_whatever_the_body(desk, refused, raw):
    order = order_in(desk, "shipped")
    answer = desk.post(path_of(order, "cancel/"), by="staff", content=raw, headers=JSON)
    found = refused(answer, 403, "insufficient_scope")
    assert found["required_scope"] == "orders:override"
    assert 'scope="orders:override"' in answer.headers["www-authenticate"]


def test_staff_may_not_cancel_a_shipped_order_by_its_status_either(desk, refused):
    order = order_in(desk, "shipped")
    for given in ({"status": "cancelled"}, {"status": "cancelled", "reason": "boredom"}):
        answer = desk.patch(path_of(order, "update_status/"), by="staff", json=given)
        refused(answer, 403, "insufficient_scope")


def test_a_broken_body_is_still_broken_where_the_caller_may_cancel(desk, refused):
    target = path_of(order_in(desk, "shipped"), "cancel/")
    answer = desk.post(target, by="admin", content=b"{", headers=JSON)
    refused(answer, 400, "malformed_json")
    answer = desk.post(target, by="admin", json={"colour": "red"})
    refused(answer, 422, "validation_error", ("#/colour", "unknown_field"))


# --- deleting -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", STATUSES)
def test_only_pending_and_cancelled_orders_can_be_deleted(desk, refused, status):
    order = order_in(desk, status)
    answer = desk.delete(path_of(order), by="admin")
    if status in ("pending", "cancelled"):
        assert answer.status_code == 204
        assert answer.content == b""
        refused(desk.get(path_of(order), by="admin"), 404, "not_found")
        refused(desk.delete(path_of(order), by="admin"), 404, "not_found")
        refused(desk.patch(path_of(order), by="staff", json={}), 404, "not_found")
        refused(desk.post(path_of(order, "cancel/"), by="staff"), 404, "not_found")
    else:
        found = refused(answer, 409, "order_not_deletable")
        assert found["current_status"] == status


def test_a_deleted_order_is_in_no_list_no_number_and_sends_no_text(desk):
    jane = desk.customer()
    order = desk.order(jane)
    assert desk.delete(path_of(order), by="admin").status_code == 204
    desk.dispatch()
    assert desk.gateway.sent == []
    for url in (
        URL,
        f"{URL}search/?q={order['order_number']}",
        f"/api/customers/{jane['id']}/orders/",
        f"{URL}?updated_since=2026-11-01",
    ):
        assert desk.get(url, by="viewer").json()["count"] == 0
    stats = desk.get(f"/api/customers/{jane['id']}/stats/", by="viewer").json()
    assert stats["total_orders"] == 0
    summary = desk.get(URL + "analytics/", by="viewer").json()["summary"]
    assert (summary["total_orders"], summary["total_revenue"]) == (0, "0.00")


# --- revisions ------------------------------------------------------------------------------

CONDITIONAL = [
    ("PATCH", "", {"notes": "x"}),
    ("DELETE", "", None),
    ("PATCH", "update_status/", {"status": "processing"}),
    ("POST", "cancel/", {}),
]


def _send(desk, order, method, more, given, **headers):
    body = {} if given is None else {"json": given}
    return desk.request(method, path_of(order, more), by="admin", headers=headers, **body)


@pytest.mark.parametrize("tag", ['"1"', "*", '"7", "1"'])
@pytest.mark.parametrize(("method", "more", "given"), CONDITIONAL)
def test_a_matching_revision_lets_the_writer_in(desk, method, more, given, tag):
    answer = _send(desk, desk.order(), method, more, given, **{"If-Match": tag})
    assert answer.is_success


@pytest.mark.parametrize("tag", ['"2"', 'W/"1"', '"2", W/"1"', "1", ""])
@pytest.mark.parametrize("write", CONDITIONAL, ids=lambda write: f"{write[0]} {write[1]}")
def test_another_revision_changes_nothing(desk, refused, write, tag):
    order = desk.order()
    answer = _send(desk, order, *write, **{"If-Match": tag})
    assert refused(answer, 412, "version_conflict")["current_version"] == 1
    assert desk.get(path_of(order), by="staff").json() == order


@pytest.mark.parametrize(("method", "more", "given"), CONDITIONAL)
def test_a_desk_may_require_the_revision(open_desk, refused, method, more, given):
    desk = open_desk(require_if_match=True)
    order = desk.order()
    answer = _send(desk, order, method, more, given)
    refused(answer, 428, "precondition_required", ("If-Match", "precondition_required"))
    assert _send(desk, order, method, more, given, **{"If-Match": '"1"'}).is_success


def test_two_writers_with_the_same_revision_do_not_both_win(desk, refused):
    order = desk.order()
    first = _send(desk, order, "PATCH", "", {"notes": "a"}, **{"If-Match": '"1"'})
    second = _send(desk, order, "PATCH", "", {"notes": "b"}, **{"If-Match": '"1"'})
    assert first.headers["etag"] == '"2"'
    assert refused(second, 412, "version_conflict")["current_version"] == 2


# --- doing a thing once ---------------------------------------------------------------------


def test_a_repeated_order_gets_the_first_answer_and_sends_one_text(desk, body):
    key = {"Idempotency-Key": "till-3/000042 ~!"}
    first = desk.post(URL, by="staff", json=body, headers=key)
    desk.dispatch()
    desk.move(first.json(), "processing")
    second = desk.post(
        "/api/orders", by="staff", json=dict(reversed(list(body.items()))), headers=key
    )
    assert second.status_code == 201
    assert second.content == first.content
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["location"] == first.headers["location"]
    assert second.headers["etag"] == first.headers["etag"] == '"1"'
    desk.dispatch()
    assert len(desk.gateway.sent) == 1
    assert desk.get(URL, by="viewer").json()["count"] == 1


def test_parallel_equal_orders_become_one_order_and_one_text(desk, body):
    async def all_at_once():
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "k"}
        post = desk.client.post
        return await asyncio.gather(*(post(URL, json=body, headers=headers) for _ in range(10)))

    token = desk.token("staff")
    answers = desk.run(all_at_once())
    done = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in done}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in done) == 1
    for answer in answers:
        if answer.status_code != 201:
            assert answer.json()["code"] == "idempotency_in_progress"
            assert answer.headers["retry-after"] == "1"
    desk.dispatch()
    assert desk.get(URL, by="viewer").json()["count"] == 1
    assert len(desk.gateway.sent) == 1


@pytest.mark.parametrize(
    "moves",
    [
        ("PATCH", "update_status/", {"status": "processing"}, {"status": "cancelled"}),
        ("POST", "cancel/", {"reason": "fraud"}, {"reason": "duplicate"}),
    ],
    ids=lambda moves: moves[1],
)
def test_a_repeated_move_gets_the_first_answer(desk, refused, moves):
    method, more, given, other = moves
    order = desk.order()
    key = {"Idempotency-Key": "k"}
    first = _send(desk, order, method, more, given, **key)
    second = _send(desk, order, method, more, given, **key)
    assert second.content == first.content
    assert second.headers["etag"] == '"2"'
    assert second.headers["idempotent-replayed"] == "true"
    third = _send(desk, order, method, more, other, **key)
    refused(third, 422, "idempotency_key_reused")
    # A path of its own: the same key there is another request.
    assert _send(desk, desk.order(), method, more, given, **key).json()["id"] != order["id"]


def test_a_replay_outlives_the_revision_it_was_made_with(desk):
    order = desk.order()
    headers = {"Idempotency-Key": "k", "If-Match": '"1"'}
    first = _send(desk, order, "POST", "cancel/", {}, **headers)
    second = _send(desk, order, "POST", "cancel/", {}, **headers)
    assert second.status_code == 200
    assert second.content == first.content


def test_an_empty_body_is_the_same_request_as_an_empty_object(desk):
    order = desk.order()
    key = {"Idempotency-Key": "k"}
    desk.post(path_of(order, "cancel/"), by="staff", headers=key)
    again = desk.post(path_of(order, "cancel/"), by="staff", json={}, headers=key)
    assert again.headers["idempotent-replayed"] == "true"


def test_an_error_releases_the_key(desk, refused, body):
    key = {"Idempotency-Key": "k"}
    broken = {**body, "amount": "0"}
    refused(desk.post(URL, by="staff", json=broken, headers=key), 422, "validation_error")
    order = desk.post(URL, by="staff", json=body, headers=key).json()
    shipped = desk.move(order, "processing", "shipped")
    refused(_send(desk, shipped, "POST", "cancel/", {}, **key), 422, "validation_error")
    assert _send(desk, shipped, "POST", "cancel/", {"reason": "lost"}, **key).status_code == 200


@pytest.mark.parametrize("more", ["update_status/", "cancel/"])
def test_a_key_outside_its_alphabet_is_refused(desk, refused, more):
    order = desk.order()
    method, given = ("PATCH", {"status": "processing"}) if "status" in more else ("POST", {})
    answer = _send(desk, order, method, more, given, **{"Idempotency-Key": "k" * 256})
    refused(answer, 400, "invalid_idempotency_key", ("Idempotency-Key", "invalid_idempotency_key"))
    assert desk.get(path_of(order), by="staff").json() == order


# --- lists ----------------------------------------------------------------------------------


@pytest.fixture
def book(desk):
    """Five orders of two customers, over three days, in two currencies."""
    jane, joe = desk.customer(), desk.customer(name="Joe", phone_number="0711 222 333")
    desk.clock.set(datetime(2026, 11, 20, 12, 0, tzinfo=UTC))
    desk.order(jane, item="Laptop", amount="1000")
    # Already the 21st in Nairobi.
    desk.clock.set(datetime(2026, 11, 20, 21, 30, tzinfo=UTC))
    desk.move(desk.order(jane, item="Mouse", amount="50", quantity=2), "processing")
    desk.order(joe, item="Tea", amount="100", notes="green, loose")
    desk.clock.set(datetime(2026, 11, 23, 9, 0, tzinfo=UTC))
    desk.move(desk.order(joe, item="Cup", amount="250.50"), "cancelled")
    desk.order(desk.customer(name="Zed", sms_opt_out=True), item="Pot", amount="9", currency="USD")
    desk.jane, desk.joe = jane, joe
    return desk


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status=pending", {"Laptop", "Tea", "Pot"}),
        ("status=processing&status=cancelled", {"Mouse", "Cup"}),
        ("status=processing,cancelled", {"Mouse", "Cup"}),
        ("status=processing,%20cancelled,processing", {"Mouse", "Cup"}),
        ("customer={jane}", {"Laptop", "Mouse"}),
        ("customer={jane},{joe}", {"Laptop", "Mouse", "Tea", "Cup"}),
        ("customer={JANE}&status=pending", {"Laptop"}),
        ("customer=" + NOBODY, set()),
        ("currency=USD", {"Pot"}),
        ("currency=USD,KES", {"Laptop", "Mouse", "Tea", "Cup", "Pot"}),
        ("min_amount=100", {"Laptop", "Mouse", "Tea", "Cup"}),
        ("min_amount=100.01", {"Laptop", "Cup"}),
        ("max_amount=100", {"Mouse", "Tea", "Pot"}),
        ("max_amount=99.99", {"Pot"}),
        ("min_amount=100&max_amount=250.5", {"Mouse", "Tea", "Cup"}),
        ("sms_status=skipped", {"Pot"}),
        ("sms_status=queued", {"Laptop", "Mouse", "Tea", "Cup"}),
        ("sms_status=sent,dead", set()),
        ("created_from=2026-11-21", {"Mouse", "Tea", "Cup", "Pot"}),
        ("created_from=2026-11-21&tz=UTC", {"Cup", "Pot"}),
        ("created_to=2026-11-20", {"Laptop"}),
        ("created_to=2026-11-20&tz=UTC", {"Laptop", "Mouse", "Tea"}),
        ("created_from=2026-11-20T21:30:00Z&created_to=2026-11-23T09:00:00Z", {"Mouse", "Tea"}),
        ("updated_since=2026-11-23T09:00:00Z&ordering=updated_at", {"Cup", "Pot"}),
        ("updated_since=2026-11-23T12:00:00%2B03:00", {"Cup", "Pot"}),
    ],
)
def test_a_filter_finds_what_it_says(book, query, found):
    query = query.format(jane=book.jane["id"], joe=book.joe["id"], JANE=book.jane["id"].upper())
    answer = book.get(f"{URL}?{query}", by="viewer")
    assert set(items(answer)) == found
    assert answer.json()["count"] == len(found)


@pytest.mark.parametrize(
    ("query", "parameter", "code"),
    [
        ("status=lost", "status", "invalid_parameter"),
        ("status=", "status", "invalid_parameter"),
        ("status=pending,,shipped", "status", "invalid_parameter"),
        ("customer=nope", "customer", "invalid_uuid"),
        ("customer=", "customer", "invalid_uuid"),
        ("currency=EUR", "currency", "invalid_parameter"),
        ("min_amount=1.005", "min_amount", "invalid_parameter"),
        ("max_amount=-1", "max_amount", "invalid_parameter"),
        ("min_amount=1&min_amount=2", "min_amount", "invalid_parameter"),
        ("sms_status=lost", "sms_status", "invalid_parameter"),
        ("created_from=2026-13-01", "created_from", "invalid_parameter"),
        ("created_to=now", "created_to", "invalid_parameter"),
        ("updated_since=2026-11-23 09:00", "updated_since", "invalid_parameter"),
        ("tz=Nairobi", "tz", "invalid_parameter"),
        ("expand=everything", "expand", "invalid_parameter"),
        ("ordering=amount", "ordering", "invalid_parameter"),
        ("limit=500", "limit", "invalid_parameter"),
        ("offset=5", "offset", "unknown_parameter"),
    ],
)
def test_a_bad_parameter_is_named(desk, refused, query, parameter, code):
    refused(desk.get(f"{URL}?{query}", by="viewer"), 400, code, (parameter, code))


def test_a_bound_that_is_too_long_hears_how_long_it_may_be(desk, refused):
    assert desk.get(f"{URL}?max_amount=9999999999999.99", by="viewer").status_code == 200
    answer = desk.get(f"{URL}?max_amount=99999999999999", by="viewer")
    problem = refused(answer, 400, "invalid_parameter", ("max_amount", "invalid_parameter"))
    assert "13 digits" in problem["detail"]


@pytest.mark.parametrize(
    ("ordering", "found"),
    [
        ("total_amount", ["Pot", "Mouse", "Tea", "Cup", "Laptop"]),
        ("-total_amount", ["Laptop", "Cup", "Tea", "Mouse", "Pot"]),
        ("created_at", ["Laptop", "Mouse", "Tea", "Cup", "Pot"]),
        ("-created_at", ["Pot", "Cup", "Tea", "Mouse", "Laptop"]),
        ("status_changed_at", ["Laptop", "Mouse", "Tea", "Cup", "Pot"]),
    ],
)
def test_the_order_is_the_one_asked_for_with_ties_by_id(book, ordering, found):
    assert items(book.get(f"{URL}?ordering={ordering}", by="viewer")) == found


def test_order_numbers_sort_as_text(book):
    rows = book.get(f"{URL}?ordering=order_number", by="viewer").json()["results"]
    numbers = [row["order_number"] for row in rows]
    assert numbers == sorted(numbers)


def test_following_next_gives_every_row_once_and_previous_leads_back(book, subtests):
    orderings = ("-created_at", "total_amount", "-total_amount", "order_number", "updated_at")
    for limit, ordering in product((1, 2, 4, 5, 6), orderings):
        with subtests.test(limit=limit, ordering=ordering):
            query = f"ordering={ordering}&created_from=2026-11-01&tz=Africa/Nairobi"
            whole = ids(book.get(f"{URL}?limit=100&{query}", by="viewer"))
            pages = walk(book, f"{URL}?limit={limit}&{query}")
            assert ids(*pages) == whole
            assert len(set(whole)) == 5
            if len(pages) > 1:
                back = walk(book, pages[-1].json()["previous"], "previous")
                last = len(pages[-1].json()["results"])
                assert ids(*reversed(back)) == whole[: len(whole) - last]


def test_rows_that_come_while_paging_neither_shift_nor_repeat_others(book):
    first = book.get(f"{URL}?limit=2", by="viewer")
    book.advance(minutes=1)
    newcomer = book.order(book.jane, item="Newcomer")
    rest = walk(book, first.json()["next"])
    seen = ids(first, *rest)
    assert len(seen) == len(set(seen)) == 5
    assert newcomer["id"] not in seen


def test_a_cursor_goes_with_its_filters_only(book, refused):
    url = book.get(f"{URL}?limit=1&status=pending", by="viewer").json()["next"]
    assert book.get(url, by="staff").status_code == 200
    for changed in (
        url.replace("status=pending", "status=shipped"),
        url.replace("&status=pending", "").replace("status=pending&", ""),
        url + "&customer=" + book.jane["id"],
        url + "&ordering=total_amount",
        url + "&expand=customer",
    ):
        assert changed != url
        answer = book.get(changed, by="viewer")
        refused(answer, 400, "invalid_cursor", ("cursor", "invalid_cursor"))


def test_expand_adds_the_customer_and_only_then(book):
    plain = book.get(URL, by="viewer").json()["results"]
    assert all("customer_details" not in row for row in plain)
    for url in (f"{URL}?expand=customer", f"{URL}search/?q=tea&expand=customer"):
        for row in book.get(url, by="viewer").json()["results"]:
            whole = book.get(f"/api/customers/{row['customer']}/", by="viewer").json()
            assert row["customer_details"] == whole
    one = plain[0]
    answer = book.get(path_of(one) + "?expand=customer", by="viewer")
    assert answer.json()["customer_details"]["id"] == one["customer"]
    assert answer.headers["etag"] == f'"{one["version"]}"'


def test_expanding_needs_the_permission_to_read_customers(book, refused):
    book.token("staff")
    token = book.run(book.log_in("a-staff", scope="orders:read")).access_token
    by = f"Bearer {token}"
    assert book.get(URL, by=by).status_code == 200
    for url in (URL, path_of(book.get(URL, by=by).json()["results"][0]), f"{URL}search/"):
        query = "?q=tea&expand=customer" if "search" in url else "?expand=customer"
        found = refused(book.get(url + query, by=by), 403, "insufficient_scope")
        assert found["required_scope"] == "customers:read"


# --- search ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("laptop", ["Laptop"]),
        ("LAP", ["Laptop"]),
        ("green", ["Tea"]),
        ("green tea", ["Tea"]),
        ("joe", ["Cup", "Tea"]),
        ("0711 222 333", ["Cup", "Tea"]),
        ("+254711222333", ["Cup", "Tea"]),
        ("254711222333", ["Cup", "Tea"]),
        ("22233", ["Cup", "Tea"]),
        ("cup 0711", ["Cup"]),
        ("nothing", []),
        ("__", []),
    ],
)
def test_search_finds_by_item_notes_and_customer(book, q, found):
    answer = book.request("GET", URL + "search/", by="viewer", params={"q": q})
    assert items(answer) == found
    assert answer.json()["count"] == len(found)


def test_search_reads_an_order_number_forgivingly(book):
    for row in book.get(URL, by="viewer").json()["results"]:
        number = row["order_number"]
        bare = number.removeprefix("ORD-").replace("-", "")
        sloppy = bare.lower().replace("0", "o").replace("1", "l")
        for q in (number, number.lower(), bare, f"{bare[:3]} {bare[3:]}", f"ord {sloppy}", sloppy):
            answer = book.request("GET", URL + "search/", by="viewer", params={"q": q})
            hits = [r for r in answer.json()["results"] if r["match"]["kind"] == "exact"]
            assert [hit["id"] for hit in hits] == [row["id"]], q
            assert hits[0]["match"]["field"] == "order_number"


def test_search_says_why_a_row_was_found(book):
    def match(q):
        answer = book.request("GET", URL + "search/", by="viewer", params={"q": q})
        return answer.json()["results"][0]["match"]

    assert match("tea") == {"field": "item", "kind": "exact"}
    assert match("lapt") == {"field": "item", "kind": "prefix"}
    assert match("aptop") == {"field": "item", "kind": "substring"}
    assert match("loose") == {"field": "notes", "kind": "prefix"}
    assert match("zed") == {"field": "customer_name", "kind": "exact"}
    assert match("0711 222 333") == {"field": "phone_number", "kind": "exact"}


def test_search_goes_together_with_filters_and_pages(book):
    assert items(book.get(f"{URL}search/?q=joe&status=cancelled", by="viewer")) == ["Cup"]
    assert items(book.get(f"{URL}search/?q=joe&max_amount=100", by="viewer")) == ["Tea"]
    pages = walk(book, f"{URL}search/?q=smith&limit=1")
    assert [items(page) for page in pages] == [["Mouse"], ["Laptop"]]


@pytest.mark.parametrize(
    ("query", "code", "parameter"),
    [
        ("", "missing_parameter", "q"),
        ("?q=x", "query_too_short", "q"),
        ("?q=" + "x" * 101, "invalid_parameter", "q"),
        ("?q=tea&ordering=created_at", "unknown_parameter", "ordering"),
        ("?q=tea&status=lost", "invalid_parameter", "status"),
        ("?q=tea&cursor=abc", "invalid_cursor", "cursor"),
    ],
)
def test_a_search_that_cannot_be_run_is_refused(desk, refused, query, code, parameter):
    refused(desk.get(f"{URL}search/{query}", by="viewer"), 400, code, (parameter, code))


# --- analytics ------------------------------------------------------------------------------


def analytics(desk, query=""):
    answer = desk.get(f"{URL}analytics/{query}", by="viewer")
    assert answer.status_code == 200, answer.text
    return answer.json()


def holds_together(found):
    """The invariants between the parts of one answer."""
    summary, series = found["summary"], found["series"]
    assert sum(found["orders_by_status"].values()) == summary["total_orders"]
    if series:
        assert sum(bucket["orders"] for bucket in series) == summary["total_orders"]
        revenue = sum(Decimal(bucket["revenue"]) for bucket in series)
        assert revenue == Decimal(summary["total_revenue"])
        cancelled = sum(bucket["cancelled"] for bucket in series)
        assert cancelled == found["orders_by_status"]["cancelled"]
        starts = [bucket["start"] for bucket in series]
        assert starts == sorted(set(starts))
    assert len(found["top_items"]) <= 10


def test_the_numbers_of_a_period_add_up(book):
    book.dispatch()
    found = analytics(book, "?start_date=2026-11-20&end_date=2026-11-23")
    holds_together(found)
    assert found["period"] == {
        "start_date": "2026-11-20",
        "end_date": "2026-11-23",
        "timezone": "Africa/Nairobi",
        "interval": "day",
    }
    assert found["currency"] == "KES"
    assert found["summary"] == {
        "total_orders": 4,
        "total_revenue": "1200.00",
        "average_order_value": "400.00",
        "units": 4,
        "cancelled_amount": "250.50",
        "cancellation_rate": 0.25,
        "delivery_rate": 0.0,
        "customers": 2,
        "new_customers": 2,
        "recent_orders_7_days": 4,
        "median_hours_to_ship": None,
        "median_hours_to_deliver": None,
    }
    assert found["series"] == [
        {"start": "2026-11-20", "orders": 1, "revenue": "1000.00", "cancelled": 0},
        {"start": "2026-11-21", "orders": 2, "revenue": "200.00", "cancelled": 0},
        {"start": "2026-11-22", "orders": 0, "revenue": "0.00", "cancelled": 0},
        {"start": "2026-11-23", "orders": 1, "revenue": "0.00", "cancelled": 1},
    ]
    assert found["top_items"] == [
        {"item": "Laptop", "orders": 1, "units": 1, "revenue": "1000.00"},
        {"item": "Mouse", "orders": 1, "units": 2, "revenue": "100.00"},
        {"item": "Tea", "orders": 1, "units": 1, "revenue": "100.00"},
    ]
    assert found["other_currencies"] == [
        {"currency": "USD", "total_orders": 1, "total_revenue": "9.00"}
    ]
    # Four created and one cancelled in KES, one skipped in USD.
    assert (found["sms"]["total"], found["sms"]["skipped"]) == (6, 1)
    assert found["sms"]["cost"] == [{"currency": "KES", "amount": "4.00"}]


def test_days_are_those_of_the_zone_that_was_asked_for(book):
    found = analytics(book, "?start_date=2026-11-20&end_date=2026-11-21&tz=UTC")
    assert [bucket["orders"] for bucket in found["series"]] == [3, 0]
    assert found["period"]["timezone"] == "UTC"


@pytest.mark.parametrize(
    ("interval", "starts"),
    [
        ("day", [f"2026-11-{day:02d}" for day in range(18, 24)]),
        ("week", ["2026-11-16", "2026-11-23"]),
        ("month", ["2026-11-01"]),
        ("none", []),
    ],
)
def test_every_bucket_appears_also_the_empty_ones(book, interval, starts):
    query = f"?start_date=2026-11-18&end_date=2026-11-23&interval={interval}"
    found = analytics(book, query)
    holds_together(found)
    assert [bucket["start"] for bucket in found["series"]] == starts
    assert found["summary"]["total_orders"] == 4


def test_the_last_thirty_local_days_are_the_default(desk):
    desk.clock.set(datetime(2026, 11, 23, 21, 30, tzinfo=UTC))
    desk.order()
    found = analytics(desk)
    assert found["period"]["end_date"] == "2026-11-24"
    assert found["period"]["start_date"] == "2026-10-26"
    assert len(found["series"]) == 30
    assert found["series"][-1]["orders"] == 1
    assert found["as_of"] == "2026-11-23T21:30:00Z"


def test_an_empty_period_has_no_rates(desk):
    found = analytics(desk, "?start_date=2026-01-01&end_date=2026-01-02")
    holds_together(found)
    for name in ("average_order_value", "cancellation_rate", "delivery_rate"):
        assert found["summary"][name] is None
    assert found["sms"]["delivery_rate"] is None
    assert found["top_items"] == []


def test_numbers_can_be_narrowed_to_a_currency_and_a_customer(book):
    query = f"?start_date=2026-11-20&end_date=2026-11-23&customer={book.jane['id']}"
    found = analytics(book, query)
    holds_together(found)
    assert found["summary"]["total_orders"] == 2
    assert analytics(book, "?currency=USD")["summary"]["total_revenue"] == "9.00"
    assert analytics(book, f"?customer={NOBODY}")["summary"]["total_orders"] == 0


def test_a_cancelled_order_changes_neither_revenue_nor_average(book):
    before = analytics(book)["summary"]
    book.move(book.order(book.jane, amount="77777"), "cancelled")
    after = analytics(book)["summary"]
    for name in ("total_revenue", "average_order_value", "units"):
        assert after[name] == before[name]
    assert after["total_orders"] == before["total_orders"] + 1


def test_hours_to_ship_and_deliver_are_medians(desk):
    for hours in (2, 5, 20):
        order = desk.move(desk.order(), "processing")
        desk.advance(hours=hours)
        order = desk.move(order, "shipped")
        desk.advance(hours=1)
        desk.move(order, "delivered")
    summary = analytics(desk)["summary"]
    assert summary["median_hours_to_ship"] == 5.0
    assert summary["median_hours_to_deliver"] == 6.0
    assert summary["delivery_rate"] == 1.0


def test_top_items_are_ten_grouped_without_case_and_named_as_last_spelled(desk):
    jane = desk.customer()
    for number in range(11):
        desk.order(jane, item=f"Item {number:02d}", amount=str(100 + number))
    desk.advance(minutes=1)
    desk.order(jane, item="ITEM 05", amount="1000")
    found = analytics(desk)["top_items"]
    assert len(found) == 10
    assert found[0] == {"item": "ITEM 05", "orders": 2, "units": 2, "revenue": "1105.00"}
    assert [each["item"] for each in found[1:3]] == ["Item 10", "Item 09"]


@pytest.mark.parametrize(
    ("query", "code", "parameter"),
    [
        ("start_date=2026-11-02&end_date=2026-11-01", "invalid_parameter", "end_date"),
        ("start_date=2025-01-01&end_date=2026-01-02", "range_too_large", "end_date"),
        (
            "start_date=2010-01-01&end_date=2026-01-01&interval=month",
            "range_too_large",
            "end_date",
        ),
        ("start_date=20261101", "invalid_parameter", "start_date"),
        ("start_date=2026-11-01T00:00:00Z", "invalid_parameter", "start_date"),
        ("end_date=2026-02-30", "invalid_parameter", "end_date"),
        ("start_date=0001-01-01&end_date=0001-01-02", "invalid_parameter", "start_date"),
        ("start_date=9999-12-30&end_date=9999-12-31", "invalid_parameter", "start_date"),
        ("interval=hour", "invalid_parameter", "interval"),
        ("tz=Nowhere/Land", "invalid_parameter", "tz"),
        ("currency=XXX", "invalid_parameter", "currency"),
        ("customer=nope", "invalid_uuid", "customer"),
        ("customer=", "invalid_uuid", "customer"),
        (f"customer={NOBODY},{NOBODY[:-1]}2", "invalid_uuid", "customer"),
        ("status=pending", "unknown_parameter", "status"),
    ],
)
def test_a_bad_period_or_parameter_is_named(desk, refused, query, code, parameter):
    answer = desk.get(f"{URL}analytics/?{query}", by="viewer")
    refused(answer, 400, code, (parameter, code))


def test_a_whole_leap_year_fits_by_day_and_ten_years_otherwise(desk):
    found = analytics(desk, "?start_date=2024-01-01&end_date=2024-12-31")
    assert len(found["series"]) == 366
    found = analytics(desk, "?start_date=2016-12-01&end_date=2026-11-30&interval=month")
    assert len(found["series"]) == 120
    found = analytics(desk, "?start_date=2016-12-01&end_date=2026-11-30&interval=week")
    first, last = (date.fromisoformat(found["series"][n]["start"]) for n in (0, -1))
    assert (first.weekday(), last.weekday()) == (0, 0)
    assert (last - first) % timedelta(days=7) == timedelta(0)
