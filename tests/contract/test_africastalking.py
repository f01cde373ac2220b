"""The adapter against a real socket that answers, stays silent or breaks off as told."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

import pytest
from africastalking.SMS import SMSService
from hypothesis import given, settings
from hypothesis import strategies as st

from savannah.adapters.africastalking import AfricasTalking, delivery_report
from savannah.application.ports import Sms
from savannah.application.trace import TraceContext, trace_var
from savannah.domain.errors import Unavailable
from savannah.domain.notification import (
    Accepted,
    Cost,
    DeliveryReport,
    Outcome,
    RefusalKind,
    RefusedSms,
    Report,
    UnknownOutcome,
)
from savannah.domain.order import NotificationId
from wire import (
    Behaviour,
    Request,
    broken_off,
    dripping,
    half_a_head,
    hang_up,
    http,
    listening,
    silent,
)

PHONE = "+254711000001"
KEY = "atsk_0123456789abcdef"
TEXT = "Hello Jane, order ORD-7K3Q9D-X is ready"
ID = "ATXid_2f8f0b6f2a0a4a6a9c1d1e2f3a4b5c6d"
NOW = datetime(2026, 11, 23, 9, 40, tzinfo=UTC)


# --- the adapter and its words ---------------------------------------------------------------------


@asynccontextmanager
async def gateway(url: str, **changes: Any) -> AsyncIterator[AfricasTalking]:
    arguments: dict[str, Any] = {"base_url": url, "username": "savannah", "api_key": KEY}
    adapter = AfricasTalking(**(arguments | changes))
    try:
        yield adapter
    finally:
        await adapter.aclose()


def sms(text: str = TEXT, *, to: str = PHONE) -> Sms:
    return Sms(id=NotificationId(UUID(int=7)), to=to, text=text)


def reply(*recipients: object, message: str = "Sent to 1/1 Total Cost: KES 0.8000") -> object:
    return {"SMSMessageData": {"Message": message, "Recipients": list(recipients)}}


def recipient(code: object, status: str = "", **changes: object) -> dict[str, object]:
    return {
        "cost": "KES 0.8000",
        "messageId": ID,
        "messageParts": 1,
        "number": PHONE,
        "status": status,
        "statusCode": code,
    } | changes


def send(answer: bytes | Behaviour, **changes: Any) -> Outcome:
    async def one() -> Outcome:
        async with listening(answer) as wire, gateway(wire.url, **changes) as adapter:
            outcome = await adapter.send(sms())
            await wire.heard()
            assert len(wire.requests) == 1, "a text is posted once, whatever comes back"
            return outcome

    return asyncio.run(one())


ACCEPTED = http(201, reply(recipient(101, "Success")))
UNAUTHORIZED = http(401, b"The supplied authentication is invalid")


# --- what goes out -------------------------------------------------------------------------------


def bodies(text: str, sender: str | None, no_proxy: pytest.MonkeyPatch) -> tuple[Request, Request]:
    """The same text through the official SDK and through the adapter."""
    no_proxy.setenv("NO_PROXY", "127.0.0.1")  # requests would ask a proxy otherwise

    async def both() -> tuple[Request, Request]:
        async with listening(ACCEPTED) as wire:
            sdk = SMSService("savannah", KEY)
            sdk._baseUrl = f"{wire.url}/version1"
            await asyncio.to_thread(sdk.send, text, [PHONE], sender)
            async with gateway(wire.url, sender_id=sender) as adapter:
                assert isinstance(await adapter.send(sms(text)), Accepted)
        official, ours = wire.requests
        return official, ours

    return asyncio.run(both())


@pytest.mark.parametrize("sender", [None, "SAVANNAH", "A&B = C"])
@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "Hello & bye = 100% €",
        "a+b a b a%20b",
        "Habari 😀, \"karibu\" 'sana' ~*-_.",
        "line one\nline two\r\n",
        "[curly’s] {€} \\^|",
        "",
    ],
)
def test_the_request_has_the_bytes_the_official_sdk_sends(
    text: str, sender: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    official, ours = bodies(text, sender, monkeypatch)
    assert ours.line == official.line == "POST /version1/messaging HTTP/1.1"
    assert ours.body == official.body
    for name in ("apikey", "accept", "content-type", "content-length", "host"):
        assert ours.headers[name] == official.headers[name]


@settings(deadline=None, max_examples=30)
@given(text=st.text(min_size=1, max_size=160))
def test_every_text_arrives_as_it_was(text: str) -> None:
    async def one() -> bytes:
        async with listening(ACCEPTED) as wire, gateway(wire.url) as adapter:
            await adapter.send(sms(text))
            return wire.requests[0].body

    assert parse_qsl(asyncio.run(one()).decode(), strict_parsing=True) == [
        ("username", "savannah"),
        ("to", PHONE),
        ("message", text),
        ("bulkSMSMode", "1"),
    ]


def test_a_root_with_a_path_is_kept() -> None:
    async def one() -> str:
        async with listening(ACCEPTED) as wire, gateway(f"{wire.url}/simulator/") as adapter:
            await adapter.send(sms())
            return wire.requests[0].line

    assert asyncio.run(one()) == "POST /simulator/version1/messaging HTTP/1.1"


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert isinstance(send(ACCEPTED), Accepted)


def test_a_redirect_is_not_followed() -> None:
    async def story() -> tuple[int, int]:
        async with listening(http(201, reply(recipient(101, "Success")))) as elsewhere:
            to = f"Location: {elsewhere.url}/\r\n"
            async with listening(http(307, b"", extra=to)) as wire, gateway(wire.url) as adapter:
                assert not isinstance(await adapter.send(sms()), Accepted)
                return len(wire.requests), len(elsewhere.requests)

    assert asyncio.run(story()) == (1, 0)


def test_a_text_no_encoding_can_carry_fails_without_a_request() -> None:
    async def one() -> tuple[Outcome, int]:
        async with listening(ACCEPTED) as wire, gateway(wire.url) as adapter:
            return await adapter.send(sms("half a pair: \ud83d")), len(wire.requests)

    assert asyncio.run(one()) == (RefusedSms(kind=RefusalKind.NUMBER, code="unencodable_text"), 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "api.africastalking.com"},
        {"base_url": "ftp://127.0.0.1"},
        {"base_url": "https://"},
        {"base_url": "https://user:secret@127.0.0.1"},
        {"base_url": "https://127.0.0.1/?a=b"},
        {"base_url": "https://127.0.0.1:port"},
        {"api_key": "two\r\nlines"},
        {"api_key": "clé"},
        {"api_key": ""},
    ],
)
def test_what_cannot_be_requested_is_refused_at_once(changes: dict[str, str]) -> None:
    arguments: dict[str, Any] = {
        "base_url": "https://127.0.0.1",
        "username": "savannah",
        "api_key": KEY,
    }
    with pytest.raises(ValueError) as refusal:
        AfricasTalking(**(arguments | changes))
    assert "secret" not in str(refusal.value)
    assert "lines" not in str(refusal.value)


# --- what comes back -----------------------------------------------------------------------------


def refused(kind: RefusalKind, code: str) -> RefusedSms:
    return RefusedSms(kind=kind, code=code)


UNREADABLE = UnknownOutcome(cause="unreadable_answer")
SENT = Accepted(provider_id=ID, cost=Cost(currency="KES", units=8000), segments=1)
MISSING = refused(RefusalKind.NUMBER, "number_missing")
BAD_SENDER = refused(RefusalKind.SENDER, "InvalidSenderId")
INVALID_SENDER = {"SMSMessageData": {"Message": "InvalidSenderId", "Recipients": []}}
BROKE = {"cost": "0", "messageId": "None", "messageParts": 0}

BY_CODE: list[tuple[int, Outcome]] = [
    (100, SENT),
    (101, SENT),
    (102, SENT),
    (401, UnknownOutcome(cause="risk_hold")),
    (402, BAD_SENDER),
    (403, refused(RefusalKind.NUMBER, "InvalidPhoneNumber")),
    (404, refused(RefusalKind.NUMBER, "UnsupportedNumberType")),
    (405, refused(RefusalKind.ACCOUNT, "InsufficientBalance")),
    (406, refused(RefusalKind.BLOCKED, "UserInBlacklist")),
    (407, refused(RefusalKind.NUMBER, "CouldNotRoute")),
    (408, refused(RefusalKind.NUMBER, "408")),
    (409, refused(RefusalKind.NIGHT, "DoNotDisturbRejection")),
    (500, refused(RefusalKind.TEMPORARY, "InternalServerError")),
    (501, refused(RefusalKind.TEMPORARY, "GatewayError")),
    (502, refused(RefusalKind.SENDER, "RejectedByGateway")),
    (0, refused(RefusalKind.NUMBER, "0")),
    (999, refused(RefusalKind.NUMBER, "999")),
]


@pytest.mark.parametrize(("code", "outcome"), BY_CODE)
@pytest.mark.parametrize("status", [200, 201])
def test_a_recipient_code_decides(status: int, code: int, outcome: Outcome) -> None:
    kept = {} if code in (100, 101, 102) else BROKE
    assert send(http(status, reply(recipient(code, "Whatever", **kept)))) == outcome
    assert send(http(status, reply(recipient(str(code), "Whatever", **kept)))) == outcome


@pytest.mark.parametrize(
    ("word", "outcome"),
    [
        ("Success", SENT),
        ("RiskHold", UnknownOutcome(cause="risk_hold")),
        ("InsufficientBalance", refused(RefusalKind.ACCOUNT, "InsufficientBalance")),
        ("Invalid Phone Number", refused(RefusalKind.NUMBER, "InvalidPhoneNumber")),
        ("UserInBlackList", refused(RefusalKind.BLOCKED, "UserInBlacklist")),
        ("Could Not Send", refused(RefusalKind.NUMBER, "Could Not Send")),
        (f"Not for {PHONE}", refused(RefusalKind.NUMBER, "unknown_status")),
        ("", UNREADABLE),
    ],
)
def test_an_old_reply_without_a_code_is_judged_by_its_word(word: str, outcome: Outcome) -> None:
    entry = recipient(None, word)
    assert send(http(201, reply(entry))) == outcome
    del entry["statusCode"]
    assert send(http(201, reply(entry))) == outcome


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (204, UNREADABLE),
        (301, refused(RefusalKind.ACCOUNT, "http_301")),
        (400, refused(RefusalKind.NUMBER, "http_400")),
        (401, refused(RefusalKind.ACCOUNT, "http_401")),
        (403, refused(RefusalKind.ACCOUNT, "http_403")),
        (404, refused(RefusalKind.ACCOUNT, "http_404")),
        (408, refused(RefusalKind.TEMPORARY, "http_408")),
        (409, refused(RefusalKind.NIGHT, "http_409")),
        (413, refused(RefusalKind.NUMBER, "http_413")),
        (429, refused(RefusalKind.TEMPORARY, "http_429")),
        (500, UnknownOutcome(cause="http_500")),
        (502, UnknownOutcome(cause="http_502")),
        (503, refused(RefusalKind.TEMPORARY, "http_503")),
        (504, UnknownOutcome(cause="http_504")),
        (520, UnknownOutcome(cause="http_520")),
    ],
)
def test_a_status_decides_when_the_body_says_nothing(status: int, outcome: Outcome) -> None:
    where = "Location: http://127.0.0.1:1/\r\n" if status == 301 else ""
    text = b"" if status == 204 else b"The supplied authentication is invalid"
    assert send(http(status, text, extra=where)) == outcome
    if status != 204:
        assert send(http(status, b"<html><h1>Oops</h1></html>", extra=where)) == outcome


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (409, reply(recipient(409, "DoNotDisturbRejection", **BROKE)), BY_CODE[11][1]),
        (409, reply(recipient(405, "InsufficientBalance", **BROKE)), BY_CODE[7][1]),
        (400, reply(recipient(406, "UserInBlacklist", **BROKE)), BY_CODE[8][1]),
        (400, INVALID_SENDER, BAD_SENDER),
        (400, reply(), refused(RefusalKind.NUMBER, "http_400")),
        (401, reply(recipient(101, "Success")), refused(RefusalKind.ACCOUNT, "http_401")),
        (500, reply(recipient(101, "Success")), UnknownOutcome(cause="http_500")),
        (503, reply(recipient(101, "Success")), refused(RefusalKind.TEMPORARY, "http_503")),
    ],
)
def test_a_body_that_names_the_number_outranks_a_4xx_status(
    status: int, body: object, outcome: Outcome
) -> None:
    assert send(http(status, body)) == outcome


OTHER = recipient(101, "Success", number="+254722000002", messageId="ATXid_other")


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (reply(message="Sent to 0/1 Total Cost: 0"), MISSING),
        (INVALID_SENDER, BAD_SENDER),
        ({"SMSMessageData": {"Message": "InvalidSenderId"}}, BAD_SENDER),
        (reply(OTHER), MISSING),
        (reply(OTHER, message="InvalidSenderId"), MISSING),
        (reply(OTHER, recipient(101, "Success")), SENT),
        (reply(OTHER, recipient(405, "", **BROKE)), BY_CODE[7][1]),
        (reply(recipient(101, "Success", number="254711000001")), SENT),
        (reply(recipient(101, "Success", number="711000001")), MISSING),
        (reply(recipient(101, "Success", number=None)), UNREADABLE),
        (reply("Success"), UNREADABLE),
        ({"SMSMessageData": {"Message": "Sent", "Recipients": None}}, UNREADABLE),
        ({"SMSMessageData": []}, UNREADABLE),
        ({}, UNREADABLE),
        ([], UNREADABLE),
        (b"", UNREADABLE),
        (b"{", UNREADABLE),
        (b"\xff\xfe\x00", UNREADABLE),
        (b"[" * 60_000, UNREADABLE),
        (b"<AfricasTalkingResponse/>", UNREADABLE),
        (b" " * 100_000 + json.dumps(reply(recipient(101))).encode(), UNREADABLE),
    ],
)
def test_a_2xx_is_judged_by_its_recipients_and_never_by_its_status(
    body: object, outcome: Outcome
) -> None:
    assert send(http(201, body)) == outcome


@pytest.mark.parametrize("message_id", ["None", "", " ", None, 7, "x" * 129, "a\x00b"])
def test_an_acceptance_no_report_could_name_is_unknown(message_id: object) -> None:
    body = reply(recipient(101, "Success", messageId=message_id))
    assert send(http(201, body)) == UnknownOutcome(cause="accepted_without_id")


@pytest.mark.parametrize(
    ("quoted", "cost"),
    [
        ("KES 0.8000", Cost(currency="KES", units=8000)),
        ("KES 4.0000", Cost(currency="KES", units=40_000)),
        ("KES 0.0000", Cost(currency="KES", units=0)),
        ("UGX 35", Cost(currency="UGX", units=350_000)),
        ("TZS 22.5", Cost(currency="TZS", units=225_000)),
        ("USD 0.0001", Cost(currency="USD", units=1)),
        ("NGN 90071992.5474", Cost(currency="NGN", units=900_719_925_474)),
        ("KES 0.80000000", Cost(currency="KES", units=8000)),
        ("KES 0.80001", None),
        ("KES -1.0000", None),
        ("KES 1e3", None),
        ("KES ٣", None),
        ("0", None),
        ("", None),
        (0.8, None),
        (None, None),
    ],
)
def test_a_cost_is_read_exactly_or_not_at_all(quoted: object, cost: Cost | None) -> None:
    outcome = send(http(201, reply(recipient(101, "Success", cost=quoted))))
    assert outcome == Accepted(provider_id=ID, cost=cost, segments=1)


@pytest.mark.parametrize(
    ("parts", "segments"),
    [(3, 3), ("3", 3), (0, None), (-1, None), (True, None), (1.5, None), (None, None)],
)
def test_the_parts_are_optional(parts: object, segments: int | None) -> None:
    outcome = send(http(201, reply(recipient(101, "Success", messageParts=parts))))
    assert isinstance(outcome, Accepted)
    assert outcome.segments == segments


# --- trouble on the way --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        (hang_up, UnknownOutcome(cause="connection_lost")),
        (half_a_head, UnknownOutcome(cause="connection_lost")),
        (broken_off(ACCEPTED), UNREADABLE),
        (broken_off(UNAUTHORIZED), refused(RefusalKind.ACCOUNT, "http_401")),
        (b"220 mail.example ESMTP\r\n\r\n", UnknownOutcome(cause="connection_lost")),
        (http(201, b"\x1f\x8b rubbish", extra="Content-Encoding: gzip\r\n"), UNREADABLE),
    ],
)
def test_trouble_after_the_request_is_unknown(
    behaviour: bytes | Behaviour, outcome: Outcome
) -> None:
    assert send(behaviour) == outcome


def test_silence_after_the_request_is_unknown() -> None:
    outcome = send(silent, read_timeout=timedelta(milliseconds=80))
    assert outcome == UnknownOutcome(cause="read_timeout")


def test_an_answer_that_drips_is_given_up() -> None:
    short = timedelta(milliseconds=150)
    outcome = send(dripping(ACCEPTED), connect_timeout=short, read_timeout=short)
    assert outcome == UnknownOutcome(cause="read_timeout")


def test_a_refused_connection_is_tried_again_later() -> None:
    async def one() -> Outcome:
        async with listening(ACCEPTED) as wire:
            url = wire.url
        async with gateway(url) as adapter:  # nobody listens there any more
            return await adapter.send(sms())

    assert asyncio.run(one()) == refused(RefusalKind.TEMPORARY, "not_connected")


def test_a_peer_that_speaks_no_tls_never_got_the_text() -> None:
    async def one() -> tuple[Outcome, int]:
        async with listening(ACCEPTED) as wire:

            async def rubbish(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                writer.close()

            server = await asyncio.start_server(rubbish, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            async with server, gateway(f"https://127.0.0.1:{port}") as adapter:
                return await adapter.send(sms()), len(wire.requests)

    assert asyncio.run(one()) == (refused(RefusalKind.TEMPORARY, "not_connected"), 0)


def test_a_connection_that_is_never_made_is_tried_again_later() -> None:
    async def one() -> Outcome:
        async with (
            listening(ACCEPTED) as wire,  # waits for HTTP while the client waits for TLS
            gateway(
                f"https://127.0.0.1:{wire.port}", connect_timeout=timedelta(milliseconds=80)
            ) as adapter,
        ):
            return await adapter.send(sms())

    assert asyncio.run(one()) == refused(RefusalKind.TEMPORARY, "connect_timeout")


def test_a_text_that_found_no_free_connection_never_left() -> None:
    async def many() -> tuple[list[Outcome], int]:
        async with (
            listening(silent) as wire,
            gateway(
                wire.url,
                max_connections=1,
                connect_timeout=timedelta(milliseconds=200),
                read_timeout=timedelta(milliseconds=300),
            ) as adapter,
        ):
            outcomes = await asyncio.gather(*(adapter.send(sms()) for _ in range(5)))
            await wire.heard(sum(not isinstance(outcome, RefusedSms) for outcome in outcomes))
            return outcomes, len(wire.requests)

    outcomes, requests = asyncio.run(many())
    unsent = [outcome for outcome in outcomes if isinstance(outcome, RefusedSms)]
    assert unsent
    assert {outcome.code for outcome in unsent} == {"no_free_connection"}
    assert len(outcomes) - len(unsent) == requests


def test_a_closed_adapter_gives_a_value_too() -> None:
    async def one() -> Outcome:
        async with listening(ACCEPTED) as wire:
            async with gateway(wire.url) as adapter:
                pass
            return await adapter.send(sms())

    assert isinstance(asyncio.run(one()), UnknownOutcome)


def test_a_cancelled_send_stays_cancelled() -> None:
    async def one() -> None:
        asked = asyncio.Event()

        async def be_asked(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()

        async with listening(be_asked) as wire, gateway(wire.url) as adapter:
            task = asyncio.create_task(adapter.send(sms()))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(one())


# --- connections ---------------------------------------------------------------------------------


def test_texts_share_one_connection() -> None:
    async def many() -> tuple[int, int]:
        async with listening(ACCEPTED) as wire, gateway(wire.url) as adapter:
            for _ in range(5):
                assert await adapter.send(sms()) == SENT
            return len(wire.requests), wire.connections

    assert asyncio.run(many()) == (5, 1)


def test_a_connection_the_gateway_closed_while_idle_is_not_used_again() -> None:
    closed = asyncio.Event()

    async def answer_and_close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ACCEPTED)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async def two() -> tuple[list[Outcome], int]:
        async with listening(answer_and_close) as wire, gateway(wire.url) as adapter:
            first = await adapter.send(sms())
            await closed.wait()
            return [first, await adapter.send(sms())], wire.connections

    assert asyncio.run(two()) == ([SENT, SENT], 2)


def test_phone_text_and_key_stay_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    send(ACCEPTED)
    send(UNAUTHORIZED)
    send(hang_up)
    test_a_closed_adapter_gives_a_value_too()
    assert caplog.records
    for secret in (PHONE, PHONE.removeprefix("+"), TEXT, TEXT.split()[1], KEY):
        assert secret not in caplog.text


# --- the balance ---------------------------------------------------------------------------------


def ask_balance(answer: bytes | Behaviour, **changes: Any) -> tuple[str, Request]:
    async def one() -> tuple[str, Request]:
        async with listening(answer) as wire, gateway(wire.url, **changes) as adapter:
            return await adapter.balance(), wire.requests[0]

    return asyncio.run(one())


def test_a_request_is_a_step_of_the_trace_that_caused_it_and_of_none_otherwise() -> None:
    trace = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1, "till=3")

    async def one(context: TraceContext | None) -> Request:
        async with (
            listening(http(201, reply(recipient(101, "Success")))) as wire,
            gateway(wire.url) as adapter,
        ):
            trace_var.set(context)
            await adapter.send(sms())
            return wire.requests[0]

    headers = asyncio.run(one(trace)).headers
    assert headers["traceparent"] == trace.traceparent
    assert "tracestate" not in headers  # what others put there is not for the vendor
    assert "traceparent" not in asyncio.run(one(None)).headers


@pytest.mark.parametrize("name", ["UserData", "userData"])
def test_the_balance_is_what_the_gateway_says(name: str) -> None:
    balance, request = ask_balance(http(200, {name: {"balance": "KES 1785.50"}}), username="a b&c")
    assert balance == "KES 1785.50"
    assert request.line == "GET /version1/user?username=a+b%26c HTTP/1.1"
    assert request.headers["apikey"] == KEY
    assert request.body == b""


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (http(401, b"The supplied authentication is invalid"), "user name and the API key"),
        (http(500, b"<html>"), "500"),
        (http(200, {"UserData": {}}), "cannot be read"),
        (http(200, {"UserData": {"balance": 3}}), "cannot be read"),
        (http(200, []), "cannot be read"),
        (http(404, {"UserData": {"balance": "KES 1.00"}}), "404"),
        (hang_up, "cannot be reached"),
        (silent, "cannot be reached"),
    ],
)
def test_a_balance_that_cannot_be_had_is_unavailable(answer: bytes | Behaviour, told: str) -> None:
    with pytest.raises(Unavailable, match=told):
        ask_balance(answer, read_timeout=timedelta(milliseconds=80))


# --- delivery reports ----------------------------------------------------------------------------


def form(**changes: str) -> dict[str, str]:
    return {
        "phoneNumber": PHONE,
        "retryCount": "0",
        "id": ID,
        "status": "Success",
        "networkCode": "63902",
    } | changes


@pytest.mark.parametrize(
    ("word", "report"),
    [
        ("Sent", Report.SENT),
        ("Submitted", Report.SENT),
        ("Buffered", Report.SENT),
        ("Success", Report.DELIVERED),
        ("Rejected", Report.FAILED),
        ("Failed", Report.FAILED),
        ("AbsentSubscriber", Report.FAILED),
        ("Expired", Report.FAILED),
        ("success", Report.DELIVERED),
        ("Teleported", None),
    ],
)
def test_a_report_is_translated_and_its_word_kept(word: str, report: Report | None) -> None:
    assert delivery_report(form(status=word), received_at=NOW) == DeliveryReport(
        provider_id=ID,
        report=report,
        word=word,
        phone=PHONE,
        network_code="63902",
        failure_reason=None,
        received_at=NOW,
    )


def test_a_report_keeps_the_reason_of_a_failure() -> None:
    told = delivery_report(form(status="Failed", failureReason="UserInBlackList"), received_at=NOW)
    assert told.failure_reason == "UserInBlackList"


@pytest.mark.parametrize(
    ("typed", "phone"),
    [
        (PHONE, PHONE),
        (" 254711000001", PHONE),  # a plus that was not percent-encoded
        ("254711000001", PHONE),
        ("00254711000001", PHONE),
        ("+254 711-000 001", PHONE),
        ("", ""),
        ("0711000001", ""),
        ("None", ""),
        ("+" + "1" * 16, ""),
        ("٢٥٤٧١١٠٠٠٠٠١", ""),
    ],
)
def test_the_phone_of_a_report_is_e164_or_empty(typed: str, phone: str) -> None:
    assert delivery_report(form(phoneNumber=typed), received_at=NOW).phone == phone


def test_a_report_needs_only_an_id_and_a_status() -> None:
    told = delivery_report({"id": ID, "status": "Sent"}, received_at=NOW)
    assert (told.phone, told.network_code, told.failure_reason) == ("", None, None)


@pytest.mark.parametrize("name", ["id", "status"])
@pytest.mark.parametrize("value", [None, "", "  ", "x" * 200, "a\x00b", "a\nb"])
def test_a_report_without_a_usable_id_or_status_is_refused(name: str, value: str | None) -> None:
    told = form()
    if value is None:
        del told[name]
    else:
        told[name] = value
    with pytest.raises(ValueError, match="id and a status"):
        delivery_report(told, received_at=NOW)


@given(st.dictionaries(st.sampled_from(["id", "status", "phoneNumber", "networkCode"]), st.text()))
def test_any_form_is_either_read_or_refused(typed: dict[str, str]) -> None:
    try:
        told = delivery_report(typed, received_at=NOW)
    except ValueError:
        return
    assert told.provider_id == typed["id"].strip()
    assert told.phone == "" or told.phone.startswith("+")
