"""Sending an order's text again because a person asks for it."""

import uuid
from dataclasses import replace

import pytest

from savannah.application.business import Business
from savannah.domain.notification import Cost, RefusalKind, RefusedSms
from savannah.domain.notification_policy import Policy
from savannah.domain.order import NotificationId
from savannah.entrypoints.http.notifications import show

UUID = "0199f3a2-5c1e-7c3a-9d57-3f0f6f0c2b11"


def resend(desk, order, *, by="staff", **more):
    return desk.post(f"/api/orders/{order['id']}/resend_sms/", by=by, **more)


@pytest.mark.parametrize("body", [None, {}, {"event": "order_created"}])
def test_a_text_is_queued_again(desk, body):
    order = desk.order()
    desk.dispatch()
    desk.advance(minutes=40)
    answer = resend(desk, order, **({} if body is None else {"json": body}))
    assert answer.status_code == 202
    found = answer.json()
    assert found == {
        "message": f"SMS notification queued for order {order['order_number']}",
        "notification": {
            "id": found["notification"]["id"],
            "order": order["id"],
            "event": "order_created",
            "to": "+2547****3456",
            "locale": "en",
            "status": "queued",
            "skip_reason": None,
            "attempts": 0,
            "segments": 1,
            "encoding": "gsm7",
            "cost": None,
            "resend_of": order["sms"]["notification"],
            "created_at": "2026-11-23T09:40:00Z",
        },
    }
    desk.dispatch()
    assert [sms.to for sms in desk.gateway.sent] == ["+254700123456"] * 2
    sms = desk.get(f"/api/orders/{order['id']}/", by="viewer").json()["sms"]
    assert (sms["notification"], sms["status"]) == (found["notification"]["id"], "sent")


@pytest.mark.parametrize(
    ("steps", "event"),
    [
        ([], "order_created"),
        (["processing"], "order_created"),
        (["processing", "shipped"], "order_shipped"),
        (["processing", "shipped", "delivered"], "order_delivered"),
        (["cancelled"], "order_cancelled"),
    ],
)
def test_the_usual_text_fits_the_status(desk, steps, event):
    order = desk.move(desk.order(), *steps)
    assert resend(desk, order).json()["notification"]["event"] == event


def test_an_earlier_text_can_be_asked_for(desk):
    order = desk.move(desk.order(), "processing", "shipped")
    answer = resend(desk, order, json={"event": "order_created"})
    assert answer.json()["notification"]["event"] == "order_created"


def test_a_text_of_a_step_that_was_not_taken_is_refused(desk, refused):
    order = desk.move(desk.order(), "processing")
    found = refused(resend(desk, order, json={"event": "order_shipped"}), 409, "no_sms_for_status")
    assert found["current_status"] == "processing"
    assert found["available_events"] == ["order_created"]


@pytest.mark.parametrize(
    ("body", "place", "code"),
    [
        ({"event": "order_lost"}, "#/event", "invalid_choice"),
        ({"event": 5}, "#/event", "wrong_type"),
        ({"event": None}, "#/event", "null_not_allowed"),
        ({"text": "Hi"}, "#/text", "unknown_field"),
    ],
)
def test_a_broken_request_names_the_field(desk, refused, body, place, code):
    answer = resend(desk, desk.order(), json=body)
    refused(answer, 422, "validation_error", (place, code))


def test_who_wants_no_texts_gets_none(desk, refused):
    customer = desk.customer(sms_opt_out=True)
    refused(resend(desk, desk.order(customer)), 409, "customer_opted_out")


def test_a_text_is_sent_again_once_a_minute_and_five_times_a_day(desk, refused):
    order = desk.order()
    assert resend(desk, order).status_code == 202
    desk.advance(seconds=20)
    throttled = resend(desk, order)
    refused(throttled, 429, "resend_throttled")
    assert throttled.headers["retry-after"] == "40"
    for _ in range(4):
        desk.advance(seconds=60)
        assert resend(desk, order).status_code == 202
    desk.advance(hours=1)
    throttled = resend(desk, order)
    refused(throttled, 429, "resend_throttled")
    assert 22 * 3600 < int(throttled.headers["retry-after"]) < 23 * 3600
    assert resend(desk, desk.order()).status_code == 202


def test_a_budget_that_is_used_up_is_told(open_desk, refused):
    desk = open_desk(business=Business(policy=Policy(budget_daily=8_000)))
    order = desk.order()
    desk.dispatch()
    answer = resend(desk, order)
    refused(answer, 429, "sms_budget_exhausted")
    assert int(answer.headers["retry-after"]) == 12 * 3600  # 09:00Z is noon in Nairobi


def test_a_key_makes_a_repeat_harmless(desk, refused):
    order, key = desk.order(), {"Idempotency-Key": "again-1"}
    first = resend(desk, order, headers=key)
    again = resend(desk, order, headers=key, json={})
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    other = resend(desk, order, headers=key, json={"event": "order_created"})
    refused(other, 422, "idempotency_key_reused")
    desk.dispatch()
    assert len(desk.gateway.sent) == 2


def test_a_subscriber_who_blocked_us_and_wants_texts_again_gets_them(desk, refused):
    desk.gateway.answer(RefusedSms(kind=RefusalKind.BLOCKED, code="406"))
    order = desk.order()
    desk.dispatch()
    desk.advance(minutes=5)
    whose = f"/api/customers/{order['customer']}/"
    assert desk.get(whose, by="viewer").json()["sms_reachability"] == "blocked"
    refused(resend(desk, order), 409, "customer_opted_out")
    for opted_out, learnt in ((True, "blocked"), (False, "unknown")):
        found = desk.patch(whose, by="staff", json={"sms_opt_out": opted_out}).json()
        assert (found["sms_opt_out"], found["sms_reachability"]) == (opted_out, learnt)
    assert resend(desk, order).status_code == 202
    desk.dispatch()
    assert [sms.to for sms in desk.gateway.sent] == ["+254700123456"]


def test_a_refusal_releases_its_key(desk, refused):
    order, key = desk.order(), {"Idempotency-Key": "again-1"}
    resend(desk, order)
    refused(resend(desk, order, headers=key), 429, "resend_throttled")
    desk.advance(seconds=60)
    answer = resend(desk, order, headers=key)
    assert answer.status_code == 202
    assert "idempotent-replayed" not in answer.headers


@pytest.mark.parametrize("key", ["", "x" * 256, "ünïcode"])
def test_a_key_that_is_none_is_refused(desk, refused, key):
    answer = resend(desk, desk.order(), headers={"Idempotency-Key": key.encode()})
    refused(answer, 400, "invalid_idempotency_key", ("Idempotency-Key", "invalid_idempotency_key"))


def test_it_takes_an_order_and_the_right_to_text(desk, refused):
    order = desk.order()
    refused(resend(desk, {"id": UUID}), 404, "not_found")
    refused(resend(desk, order, by=None), 401, "authentication_required")
    found = refused(resend(desk, order, by="viewer"), 403, "insufficient_scope")
    assert found["required_scope"] == "notifications:write"


def test_a_message_shows_what_it_cost(desk):
    order = desk.order()
    desk.dispatch()

    async def message():
        async with desk.storage(reading=True) as uow:
            id_ = NotificationId(uuid.UUID(order["sms"]["notification"]))
            return await uow.notifications.get(id_)

    sent = desk.run(message())
    assert (show(sent).cost.currency, show(sent).cost.amount) == ("KES", "0.80")
    odd = replace(sent, cost=Cost(currency="KES", units=12_345))
    assert show(odd).cost.amount == "1.2345"
    assert show(replace(sent, to=None)).to is None
