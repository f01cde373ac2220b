"""What the gateway posts to us."""

import logging
from uuid import UUID

import pytest

from savannah.domain.notification import Accepted, UnknownOutcome
from savannah.domain.notification_policy import Rate

JANE = "+254700123456"
UNUSABLE = "a delivery report without a usable id or status"


@pytest.fixture
def post(desk):
    """Posts a form to one of the four callbacks."""

    def posted(kind, form, *, token="callback-token-0123456789", slash="/", **more):
        path = f"/api/sms/africastalking/{token}/{kind}{slash}"
        return desk.post(path, data=form, **more)

    return posted


@pytest.fixture
def sent(desk):
    """An order whose text is on its way under the gateway's id `ATXid_1`."""
    desk.gateway.answer(Accepted(provider_id="ATXid_1"))
    order = desk.order()
    desk.dispatch()
    return order


def sms_of(desk, order):
    return desk.get(f"/api/orders/{order['id']}/", by="viewer").json()["sms"]


def customer_of(desk, order):
    return desk.get(f"/api/customers/{order['customer']}/", by="viewer").json()


def report(status="Success", id_="ATXid_1", **more):
    return {"id": id_, "status": status, "phoneNumber": JANE, "networkCode": "63902", **more}


def taken(answer, text="OK"):
    assert (answer.status_code, answer.text) == (200, text)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("slash", ["/", ""])
def test_a_report_settles_its_message(desk, post, sent, slash):
    desk.advance(minutes=2)
    taken(post("delivery", report(), slash=slash))
    sms = sms_of(desk, sent)
    assert (sms["status"], sms["delivered_at"]) == ("delivered", "2026-11-23T09:02:00Z")
    assert customer_of(desk, sent)["sms_reachability"] == "reachable"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["Sent", "Submitted", "Buffered"], "sent"),
        (["Success", "Success", "Failed", "Sent"], "delivered"),
        (["Failed", "Buffered", "Failed"], "failed"),
        (["Rejected", "Success"], "delivered"),
        (["AbsentSubscriber"], "failed"),
        (["Teleported"], "sent"),
    ],
)
def test_neither_order_nor_repetition_of_reports_matters(desk, post, sent, words, status):
    for word in words:
        taken(post("delivery", report(word)))
    assert sms_of(desk, sent)["status"] == status


def test_a_report_of_a_blocked_sender_is_remembered(desk, post, sent):
    taken(post("delivery", report("Failed", failureReason="UserInBlackList")))
    assert customer_of(desk, sent)["sms_reachability"] == "blocked"


def test_a_report_that_overtakes_our_own_record_is_kept_and_matched_later(desk, post):
    order = desk.order()
    taken(post("delivery", report("Success", id_="ATXid_early")))
    assert sms_of(desk, order)["status"] == "queued"
    desk.gateway.answer(Accepted(provider_id="ATXid_early"))
    desk.dispatch()
    assert sms_of(desk, order)["status"] == "delivered"


def test_a_report_settles_the_one_unknown_message_to_its_phone(desk, post):
    desk.gateway.answer(UnknownOutcome(cause="read_timeout"))
    order = desk.order()
    desk.dispatch()
    assert sms_of(desk, order)["status"] == "unknown"
    # A plus that was not escaped arrives as a blank.
    taken(post("delivery", report(id_="ATXid_late", phoneNumber=JANE.replace("+", " "))))
    assert sms_of(desk, order)["status"] == "delivered"


@pytest.mark.parametrize("kind", ["delivery", "inbound", "optout", "ussd"])
@pytest.mark.parametrize("token", ["wrong", "callback-token-012345678", "%00", "t%C3%B6ken", "%ff"])
def test_a_wrong_secret_is_not_found(desk, post, refused, kind, token):
    form = {**report(), "from": JANE, "text": "STOP"}
    found = refused(post(kind, form, token=token), 404, "not_found")
    assert found["instance"] == f"/api/sms/africastalking/-/{kind}/"
    assert refused(post(kind, {}, token=token), 404, "not_found")


@pytest.mark.parametrize(
    "given",
    [
        ("delivery", {}),
        ("delivery", {"id": "ATXid_1"}),
        ("delivery", {"status": "Success"}),
        ("delivery", {"id": " ", "status": "Success"}),
        ("delivery", report(id_="x" * 200)),
        ("inbound", {"text": "STOP"}),
        ("optout", {"senderId": "SHOP"}),
        ("optout", {"phoneNumber": ""}),
    ],
)
def test_a_form_without_what_it_must_have_is_taken_and_logged(desk, post, sent, caplog, given):
    kind, form = given
    before = customer_of(desk, sent), sms_of(desk, sent)
    with caplog.at_level(logging.WARNING):
        taken(post(kind, form))
    told = [entry.message for entry in caplog.records if entry.name == "savannah.callbacks"]
    assert told == [UNUSABLE if kind == "delivery" else "an opt-out without a usable number"]
    assert "x" * 200 not in caplog.text
    assert (customer_of(desk, sent), sms_of(desk, sent)) == before


@pytest.mark.parametrize("body", [b"{}", b'{"id": "x"}', b"id=%ff&status=Success", b"\xff", b"id"])
def test_a_body_that_is_no_form_is_taken_and_logged(desk, caplog, body):
    path = "/api/sms/africastalking/callback-token-0123456789/delivery/"
    with caplog.at_level(logging.WARNING):
        taken(desk.post(path, content=body))
    assert UNUSABLE in caplog.text
    unreadable = b"ff" in body or not body.isascii()
    assert ("a callback whose body is not a form" in caplog.text) is unreadable


@pytest.mark.parametrize("more", [b"&", b"&linkId", b"&&retryCount=", "&text=Ñandú".encode()])
def test_a_form_may_have_fields_without_a_value_and_plain_utf_8(desk, sent, more):
    path = "/api/sms/africastalking/callback-token-0123456789/delivery/"
    taken(desk.post(path, content=b"id=ATXid_1&status=Success" + more))
    assert sms_of(desk, sent)["status"] == "delivered"


def test_a_form_that_is_too_large_is_refused(desk, post, refused):
    refused(post("delivery", report(note="x" * 66_000)), 413, "body_too_large")


def test_an_opt_out_ends_the_texts_to_every_customer_with_that_phone(desk, post):
    first, second = desk.customer(), desk.customer(name="John Smith")
    other = desk.customer(phone_number="0700 999 999")
    for _ in range(2):
        taken(post("optout", {"senderId": "SHOP", "phoneNumber": JANE}))
    after = {
        each["id"]: (each["sms_opt_out"], each["version"])
        for each in desk.get("/api/customers/", by="viewer").json()["results"]
    }
    assert after == {
        first["id"]: (True, 2),
        second["id"]: (True, 2),
        other["id"]: (False, 1),
    }
    assert desk.order(first)["sms"]["status"] == "skipped"


@pytest.mark.parametrize(
    "text", ["STOP", " stop. ", "Stop\n", "Acha", "ACHA!", "stop  all", "Sitisha"]
)
def test_a_text_that_says_stop_is_an_opt_out(desk, post, text):
    customer = desk.customer()
    form = {"from": JANE, "to": "22384", "text": text, "id": "1", "date": "2026-11-23 09:00:00"}
    taken(post("inbound", form))
    found = desk.get(f"/api/customers/{customer['id']}/", by="viewer").json()
    assert found["sms_opt_out"] is True


@pytest.mark.parametrize("text", ["", "Please don't stop", "Asante", "stop by at five", "\u0000"])
def test_any_other_text_changes_nothing(desk, post, text):
    customer = desk.customer()
    taken(post("inbound", {"from": JANE, "text": text}))
    taken(post("inbound", {"from": JANE}))
    assert desk.get(f"/api/customers/{customer['id']}/", by="viewer").json() == customer


@pytest.mark.parametrize(
    "sender", ["254700123456", " 254700123456", "0700123456", "+254700123456\r\n"]
)
def test_a_number_in_another_spelling_is_read_as_well(desk, post, sender):
    customer = desk.customer()
    taken(post("inbound", {"from": sender, "text": "STOP"}))
    found = desk.get(f"/api/customers/{customer['id']}/", by="viewer").json()
    assert found["sms_opt_out"] is True


def test_a_number_of_another_country_is_read_without_its_plus(desk, post):
    customer = desk.customer(phone_number="+256 700 123456")
    taken(post("optout", {"phoneNumber": "256700123456"}))
    found = desk.get(f"/api/customers/{customer['id']}/", by="viewer").json()
    assert found["sms_opt_out"] is True


def test_an_operator_that_sends_under_its_name_is_taken_and_ignored(post):
    taken(post("inbound", {"from": "MTN", "text": "STOP"}))
    taken(post("optout", {"phoneNumber": "MTN"}))


def test_a_ussd_session_ends_with_a_word(post):
    form = {"sessionId": "1", "serviceCode": "*384#", "phoneNumber": JANE, "text": ""}
    answer = post("ussd", form)
    assert answer.status_code == 200
    assert answer.text.startswith("END ")
    assert len(answer.text) <= 182


def test_callbacks_have_no_limit_per_address(open_desk):
    desk = open_desk(rate_limit_auth=Rate.parse("1/min"), rate_limit=Rate.parse("1/min"))
    path = "/api/sms/africastalking/callback-token-0123456789/delivery/"
    for _ in range(5):
        answer = desk.post(path, data=report())
        assert answer.status_code == 200
        assert "ratelimit-limit" not in answer.headers


def test_the_secret_is_in_no_line_and_no_figure(desk, post, sent, caplog):
    caplog.set_level(logging.DEBUG)
    post("delivery", report())
    post("delivery", {})
    post("nothing", {})
    post("optout", {"phoneNumber": JANE})
    ours = [
        f"{record.getMessage()} {vars(record)}"
        for record in caplog.records
        if record.name.startswith("savannah")
    ]
    assert any("/api/sms/africastalking/{token}/delivery" in line for line in ours)
    told = [*ours, desk.get("/metrics").text]
    assert not [text for text in told if "callback-token-0123456789" in text]
    assert not [text for text in ours if "254700123456" in text]


def test_what_subscribers_wish_is_in_the_audit_log_under_the_gateways_name(desk, post):
    customer = desk.customer()
    post("optout", {"phoneNumber": JANE})

    async def events():
        async with desk.storage(reading=True) as uow:
            return await uow.events.of("customer", UUID(customer["id"]))

    last = desk.run(events())[-1]
    assert (last.actor, last.data["sms_opt_out"]) == ("gateway", True)
