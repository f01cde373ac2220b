"""The simulated gateway over real sockets: its wire, its magic numbers, its callbacks, its page."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree as ET

import httpx
import pytest
import requests
import uvicorn
from africastalking.Application import ApplicationService
from africastalking.Service import AfricasTalkingException
from africastalking.SMS import SMSService
from litestar import Litestar, asgi
from litestar.types import Receive, Scope, Send

from savannah.entrypoints import simulator as package
from savannah.entrypoints.simulator import (
    MAGIC,
    MessageStatus,
    Mode,
    ReportMode,
    Simulator,
    SimulatorSettings,
)

ONE, TWO = "+254711000001", "+254711000002"
SWIFT = SimulatorSettings(
    report_delay_s=0.01, slow_s=0.2, hang_s=0.3, late_s=0.3, retry_delays_s=(0.01, 0.02, 0.03)
)


@dataclass
class Receiver:
    """A tiny application that keeps each callback and answers what it is told, else 200."""

    got: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    content_types: set[str] = field(default_factory=set)
    at: list[float] = field(default_factory=list)
    answers: deque[int] = field(default_factory=deque)
    pause_s: float = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event["body"], event["more_body"]
        self.at.append(time.monotonic())
        self.got.append((scope["path"], dict(parse_qsl(body.decode(), strict_parsing=True))))
        self.content_types.add(dict(scope["headers"])[b"content-type"].decode())
        await asyncio.sleep(self.pause_s)
        status = self.answers.popleft() if self.answers else 200
        headers = [(b"location", b"/elsewhere/")] if status == 307 else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def reports(self) -> list[tuple[str, str | None]]:
        return [
            (form["status"], form.get("failureReason"))
            for path, form in self.got
            if path == "/hook/s3cret/delivery/"
        ]


@dataclass
class Town:
    """The simulator alone, the simulator under a mount, and a receiver, all on loopback."""

    simulator: Simulator
    receiver: Receiver
    url: str
    mounted: str
    loop: asyncio.AbstractEventLoop
    client: httpx.Client

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=60)

    def settle(self) -> None:
        self.run(self.simulator.settle())

    def send(self, *numbers: str, text: str = "Habari", **fields: Any) -> httpx.Response:
        return self.ask(
            "POST",
            "/version1/messaging",
            data={"username": "desk", "to": ",".join(numbers), "message": text, **fields},
        )

    def ask(
        self,
        method: str,
        path: str,
        accept: str = "application/json",
        timeout: float | httpx.Timeout = 60,
        **more: Any,
    ) -> httpx.Response:
        headers = {"apiKey": "KEY123", "Accept": accept, **more.pop("headers", {})}
        return self.client.request(
            method, self.url + path, headers=headers, timeout=timeout, **more
        )

    def sms(self) -> SMSService:
        service = SMSService("desk", "KEY123")
        service._baseUrl = service._contentUrl = f"{self.url}/version1"
        return service

    def eventually(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, "it never came to be"
            time.sleep(0.005)


def listener() -> socket.socket:
    # asyncio turns delayed sending off only for sockets that name their protocol.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    return bound


def under_mount(inner: Litestar) -> Litestar:
    @asgi("/simulator", is_mount=True, copy_scope=False)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    return Litestar([mounted], openapi_config=None, logging_config=None)


@pytest.fixture(scope="module")
def servers() -> Iterator[Town]:
    simulator, receiver = Simulator(SWIFT), Receiver()
    apps: list[Any] = [simulator.app(), under_mount(simulator.app()), receiver]
    sockets = [listener() for _ in apps]
    roots = [f"http://127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    running = [
        uvicorn.Server(
            uvicorn.Config(
                app, log_config=None, ws="none", lifespan="off" if app is receiver else "on"
            )
        )
        for app in apps
    ]
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        await asyncio.gather(
            *(one.serve(sockets=[bound]) for one, bound in zip(running, sockets, strict=True))
        )

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    simulator.callback_url = f"{roots[2]}/hook/s3cret"
    with httpx.Client(trust_env=False) as client:
        town = Town(simulator, receiver, roots[0], f"{roots[1]}/simulator", loop, client)
        town.eventually(lambda: all(one.started for one in running))
        yield town
    for one in running:
        one.should_exit = True
    thread.join(timeout=60)
    loop.close()
    assert not thread.is_alive()


@pytest.fixture
def town(servers: Town, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    receiver = servers.receiver
    receiver.got.clear(), receiver.at.clear(), receiver.answers.clear()
    receiver.pause_s = 0.0
    yield servers
    servers.run(reset(servers.simulator))


async def reset(simulator: Simulator) -> None:
    simulator.reset()


def recipients(answer: httpx.Response) -> list[dict[str, Any]]:
    return answer.json()["SMSMessageData"]["Recipients"]


def inside(simulator: Simulator, *asked: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    """The answers of a simulator of its own, without a socket."""

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(simulator.app())
        headers = {"apiKey": "KEY123", "Accept": "application/json"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://gateway", headers=headers
        ) as client:
            answers = [await client.request(method, path, **more) for method, path, more in asked]
        await simulator.aclose()
        return answers

    return asyncio.run(ask())


def a_send(number: str = ONE, **more: Any) -> tuple[str, str, dict[str, Any]]:
    fields = {"username": "desk", "to": number, "message": "Habari", **more}
    return ("POST", "/version1/messaging", {"data": fields})


# The official SDK


def test_the_sdk_sends_and_its_bytes_are_kept(town: Town) -> None:
    said = town.sms().send("Hello & bye = 100% €", [ONE, TWO], sender_id="SAVANNAH", enqueue=True)

    whole = json.loads(json.dumps(said))
    data = said["SMSMessageData"]
    assert data["Message"] == "Sent to 2/2 Total Cost: KES 1.6000"
    assert [one["number"] for one in data["Recipients"]] == [ONE, TWO]
    first = data["Recipients"][0]
    assert re.fullmatch(r"ATXid_[0-9a-f]{32}", first.pop("messageId"))
    assert first == {
        "cost": "KES 0.8000",
        "messageParts": 1,
        "number": ONE,
        "status": "Success",
        "statusCode": 102,
    }
    (arrived,) = town.simulator.received
    assert arrived.body == (
        b"username=desk&to=%2B254711000001%2C%2B254711000002"
        b"&message=Hello+%26+bye+%3D+100%25+%E2%82%AC&bulkSMSMode=1&from=SAVANNAH&enqueue=1"
    )
    assert arrived.headers["apikey"] == "KEY123"
    assert arrived.fields is not None
    assert arrived.fields["bulkSMSMode"] == "1"
    assert arrived.answer is not None
    assert json.loads(arrived.answer.body) == whole


def test_the_sdk_takes_an_unknown_sender_for_success(town: Town) -> None:
    town.ask("POST", "/faults", json={"mode": "invalid_sender"})

    said = town.sms().send("Habari", [ONE], sender_id="NOBODY")

    assert said == {"SMSMessageData": {"Message": "InvalidSenderId", "Recipients": []}}
    assert town.simulator.messages() == ()


def test_the_sdk_fetches_what_people_wrote(town: Town) -> None:
    for text in ("ndiyo", "hapana"):
        town.ask("POST", "/reply", json={"from": ONE, "to": "22384", "text": text})

    everything = town.sms().fetch_messages()["SMSMessageData"]["Messages"]
    newer = town.sms().fetch_messages(last_received_id=1)["SMSMessageData"]["Messages"]

    assert [(one["id"], one["text"]) for one in everything] == [(1, "ndiyo"), (2, "hapana")]
    assert newer == everything[1:]
    assert set(newer[0]) == {"linkId", "text", "to", "id", "date", "from"}
    assert (newer[0]["from"], newer[0]["to"]) == (ONE, "22384")


def test_the_sdk_sees_the_balance_fall_by_the_cost_of_each_part(town: Town) -> None:
    application = ApplicationService("desk", "KEY123")
    application._baseUrl = f"{town.url}/version1"
    before = application.fetch_application_data()

    said = town.sms().send("x" * 161, [ONE])["SMSMessageData"]["Recipients"][0]

    assert (said["messageParts"], said["cost"]) == (2, "KES 1.6000")
    assert before == {"UserData": {"balance": "KES 1000000.00"}}
    assert application.fetch_application_data() == {"UserData": {"balance": "KES 999998.40"}}


def test_the_sdk_sends_premium_and_hashed_and_subscribes(town: Town) -> None:
    sms = town.sms()

    premium = sms.send_premium("Habari", "22384", [ONE], keyword="desk")
    hashed = sms.send_hashed("Habari", "ab" * 32, "SAVANNAH")
    subscribed = sms.create_safaricom_subscription(
        "22384", "desk", phone_number=ONE, redirect_url="https://desk.example/"
    )

    assert premium["SMSMessageData"]["Recipients"][0]["statusCode"] == 101
    assert hashed["SMSMessageData"]["Recipients"][0]["number"] == "ab" * 32
    assert subscribed["status"] == "Success"


def test_the_sdk_raises_the_text_of_a_refused_key(town: Town) -> None:
    with pytest.raises(AfricasTalkingException, match="The supplied authentication is invalid"):
        town.sms().send("Habari", ["+254700001401"])


# The wire


def test_json_answers_name_their_type_and_nothing_else(town: Town) -> None:
    answer = town.send(ONE)

    assert (answer.status_code, answer.headers["content-type"]) == (201, "application/json")


def test_the_bulk_endpoint_takes_json(town: Town) -> None:
    asked = {
        "username": "desk",
        "phoneNumbers": [TWO, "nonsense", ONE],
        "message": "Karibu 😀",
        "senderId": "SAVANNAH",
    }
    answer = town.ask("POST", "/version1/messaging/bulk", json=asked)

    assert answer.status_code == 201
    assert [(one["number"], one["statusCode"]) for one in recipients(answer)] == [
        (TWO, 101),
        ("nonsense", 403),
        (ONE, 101),
    ]
    assert answer.json()["SMSMessageData"]["Message"] == "Sent to 2/3 Total Cost: KES 1.6000"
    assert [one.text for one in town.simulator.messages(ONE)] == ["Karibu 😀"]
    (arrived,) = town.simulator.received
    assert (arrived.path, arrived.fields) == ("/version1/messaging/bulk", asked)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"message": "\\ud800"}', b"\xff"])
def test_an_unreadable_bulk_body_is_refused(town: Town, body: bytes) -> None:
    answer = town.ask(
        "POST",
        "/version1/messaging/bulk",
        content=body,
        headers={"content-type": "application/json"},
    )

    assert answer.status_code == 400
    assert town.ask("GET", "/state.json").status_code == 200


@pytest.mark.parametrize("field_name", ["username", "to", "message"])
def test_a_missing_field_is_named(town: Town, field_name: str) -> None:
    fields = {"username": "desk", "to": ONE, "message": "Habari"}
    del fields[field_name]

    answer = town.ask("POST", "/version1/messaging", data=fields)

    assert answer.status_code == 400
    assert answer.text == f"Request is missing required form field '{field_name}'"


def test_without_a_json_accept_header_the_answers_are_xml(town: Town) -> None:
    fields = {"username": "desk", "to": f"{ONE},+254700000406", "message": "<b>&"}
    sent = town.ask("POST", "/version1/messaging", accept="*/*", data=fields)
    town.ask("POST", "/reply", json={"from": ONE, "text": "<ok & done>"})
    listed = town.ask("GET", "/version1/messaging?username=desk", accept="text/xml")
    balance = town.ask("GET", "/version1/user?username=desk", accept="text/xml")

    assert sent.status_code == 201
    rows = ET.fromstring(sent.text).findall("SMSMessageData/Recipients/Recipient")
    assert [row.findtext("status") for row in rows] == ["Success", "UserInBlacklist"]
    assert [row.findtext("cost") for row in rows] == ["KES 0.8000", "0"]
    message = ET.fromstring(listed.text).find("SMSMessageData/Messages/Message")
    assert message is not None
    assert message.findtext("text") == "<ok & done>"
    assert ET.fromstring(balance.text).findtext("UserData/balance") == "KES 999999.20"


def test_a_key_is_asked_for_everywhere(town: Town) -> None:
    root = f"{town.url}/version1"
    answers = [
        town.client.post(f"{root}/messaging", data={"username": "desk"}),
        town.client.post(f"{root}/messaging/bulk", json={}),
        town.client.get(f"{root}/messaging?username=desk"),
        town.client.get(f"{root}/user?username=desk"),
        town.client.post(f"{root}/subscription/safaricom", data={"username": "desk"}),
    ]

    assert {(one.status_code, one.text) for one in answers} == {
        (401, "The supplied authentication is invalid")
    }


def test_a_key_that_is_set_must_be_matched() -> None:
    right, wrong = (
        Simulator(SimulatorSettings(api_key=key, callback_url=None)) for key in ("KEY123", "OTHER")
    )

    assert [inside(one, a_send())[0].status_code for one in (right, wrong)] == [201, 401]


def test_registered_senders_and_the_default_one_are_known() -> None:
    simulator = Simulator(SimulatorSettings(registered_senders=frozenset({"SAVANNAH"})))

    answers = inside(
        simulator, a_send(**{"from": "SAVANNAH"}), a_send(), a_send(**{"from": "OTHER"})
    )

    assert [len(recipients(one)) for one in answers] == [1, 1, 0]


def test_an_account_without_money_is_refused_recipient_by_recipient() -> None:
    simulator = Simulator(SimulatorSettings(balance=Decimal("1.00"), currency="UGX"))

    (answer,) = inside(simulator, a_send(f"{ONE},{TWO}"))

    assert [one["statusCode"] for one in recipients(answer)] == [101, 405]
    assert answer.json()["SMSMessageData"]["Message"] == "Sent to 1/2 Total Cost: UGX 0.8000"


# Magic numbers


def test_each_refused_recipient_has_its_code_and_name_in_the_order_asked(town: Town) -> None:
    refused = {ending: magic.rejection for ending, magic in MAGIC.items() if magic.rejection}
    numbers = [f"+254700{ending}" for ending in refused]

    answer = town.send(*numbers)

    assert [
        (one["number"], one.get("statusCode"), one["status"], one["cost"], one["messageId"])
        for one in recipients(answer)
    ] == [
        (number, why.code, why.name, "0", "None")
        for number, why in zip(numbers, refused.values(), strict=True)
    ]
    assert answer.json()["SMSMessageData"]["Message"] == f"Sent to 0/{len(refused)} Total Cost: 0"
    assert {one.status for one in town.simulator.messages()} == {MessageStatus.REFUSED}
    documented = {
        401: "RiskHold",
        402: "InvalidSenderId",
        403: "InvalidPhoneNumber",
        404: "UnsupportedNumberType",
        405: "InsufficientBalance",
        406: "UserInBlacklist",
        407: "CouldNotRoute",
        409: "DoNotDisturbRejection",
        500: "InternalServerError",
        501: "GatewayError",
        502: "RejectedByGateway",
    }
    said = {one.get("statusCode"): one["status"] for one in recipients(answer)}
    assert said == {**documented, 999: "Unheard", None: "Could Not Send"}


def test_accepting_codes_can_be_chosen_and_a_recipient_left_out(town: Town) -> None:
    answer = town.send("+256700000100", "+256700000102", "+256700000997")

    assert [(one["statusCode"], one["status"]) for one in recipients(answer)] == [
        (100, "Success"),
        (102, "Success"),
    ]
    assert answer.json()["SMSMessageData"]["Message"].startswith("Sent to 2/3 ")
    assert town.simulator.messages("+256700000997")[0].status is MessageStatus.REFUSED


@pytest.mark.parametrize(
    ("ending", "status", "content_type", "says"),
    [
        ("001400", 400, "text/plain; charset=utf-8", "missing required form field"),
        ("001401", 401, "text/plain; charset=utf-8", "The supplied authentication is invalid"),
        ("001402", 201, "application/json", '"InvalidSenderId","Recipients":[]'),
        ("001405", 201, "application/json", '"InsufficientBalance","statusCode":405'),
        ("001409", 409, "application/json", '"DoNotDisturbRejection","statusCode":409'),
        ("001429", 429, "text/plain; charset=utf-8", "Too many requests"),
        ("001500", 500, "text/plain; charset=utf-8", "Internal Server Error"),
        ("001502", 502, "text/html; charset=utf-8", "<h1>502 Bad Gateway</h1>"),
        ("001503", 503, "text/plain; charset=utf-8", "Service Unavailable"),
    ],
)
def test_a_request_can_be_refused_as_a_whole(
    town: Town, ending: str, status: int, content_type: str, says: str
) -> None:
    answer = town.send(ONE, f"+255700{ending}")

    assert (answer.status_code, answer.headers["content-type"]) == (status, content_type)
    assert says in answer.text
    assert all(one.status is MessageStatus.REFUSED for one in town.simulator.messages())
    assert town.receiver.got == []


@pytest.mark.parametrize("root", ["url", "mounted"])
def test_a_lost_answer_breaks_the_connection_after_the_message_was_taken(
    town: Town, root: str
) -> None:
    fields = {"username": "desk", "to": "+254700002003", "message": "Habari"}
    url = f"{getattr(town, root)}/version1/messaging"
    with pytest.raises(httpx.RemoteProtocolError):
        town.client.post(url, data=fields, headers={"apiKey": "k"})
    town.settle()

    assert [one.status for one in town.simulator.messages()] == [MessageStatus.DELIVERED]
    assert town.receiver.reports() == [("Sent", None), ("Success", None)]


def test_a_lost_answer_is_a_transport_error_to_the_sdk(town: Town) -> None:
    with pytest.raises(requests.exceptions.RequestException):
        town.sms().send("Habari", ["+254700002003"])

    assert len(town.simulator.messages()) == 1


def test_rubbish_is_a_created_answer_that_nobody_can_read(town: Town) -> None:
    answer = town.send("+254700002004")

    assert answer.status_code == 201
    with pytest.raises(ValueError):
        answer.json()
    assert len(town.simulator.messages()) == 1


def test_a_hanging_send_is_not_taken_when_the_caller_leaves(town: Town) -> None:
    town.ask("POST", "/faults", json={"hang_s": 60})
    fields = {"username": "desk", "to": "+254700002002", "message": "Habari"}

    with pytest.raises(httpx.ReadTimeout):
        town.ask("POST", "/version1/messaging", timeout=httpx.Timeout(60, read=0.1), data=fields)
    town.eventually(lambda: "the caller left" in json.dumps(town.simulator.state()))

    assert town.simulator.messages() == ()
    assert [one.answer for one in town.simulator.received] == [None]


def test_a_patient_caller_is_answered_after_a_hang_and_a_slow_send(town: Town) -> None:
    started = time.monotonic()

    answers = [town.send("+254700002002"), town.send("+254700002001")]

    assert [one.status_code for one in answers] == [201, 201]
    assert time.monotonic() - started >= SWIFT.hang_s + SWIFT.slow_s


def test_a_gateway_that_stops_lets_hanging_callers_go() -> None:
    simulator = Simulator(SimulatorSettings(hang_s=60))

    async def stop_in_mid_send() -> int:
        transport = httpx.ASGITransport(simulator.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            method, path, more = a_send("+254700002002")
            asked = asyncio.create_task(
                client.request(method, path, headers={"apiKey": "k"}, **more)
            )
            while not simulator.received:  # noqa: ASYNC110  the loop only turns
                await asyncio.sleep(0)
            await simulator.aclose()
            return (await asyncio.wait_for(asked, 30)).status_code

    assert asyncio.run(stop_in_mid_send()) == 503


def test_the_table_for_people_names_every_magic_number(town: Town) -> None:
    rows = dict(re.findall(r"^    (\d{6})   (.+)$", package.__doc__ or "", re.MULTILINE))
    shown = town.ask("GET", "/state.json").json()["magic"]

    assert list(rows) == list(MAGIC)
    assert all(rows[ending].startswith(magic.meaning) for ending, magic in MAGIC.items())
    assert [row["ending"] for row in shown] == ["any other", *MAGIC]


# Delivery reports

LIVES = [
    ("000001", ["Sent", "Success"], MessageStatus.DELIVERED),
    ("003001", ["Sent", "Failed DeliveryFailure"], MessageStatus.FAILED),
    ("003002", ["Rejected NotNetworkSubcriber"], MessageStatus.FAILED),
    ("003003", ["Sent", "AbsentSubscriber"], MessageStatus.FAILED),
    ("003004", ["Sent", "Expired"], MessageStatus.FAILED),
    ("003005", ["Sent", "HeldAtCustoms"], MessageStatus.SENT),
    ("003006", [], MessageStatus.DELIVERED),
    ("003007", ["Sent"], MessageStatus.SENT),
    ("003008", ["Sent", "Sent", "Success", "Success"], MessageStatus.DELIVERED),
    ("003009", ["Success", "Sent"], MessageStatus.DELIVERED),
    ("003010", ["Sent", "Success"], MessageStatus.DELIVERED),
    ("003011", ["Sent", "Success"], MessageStatus.DELIVERED),
    ("003012", ["Sent", "AbsentSubscriber", "Success"], MessageStatus.DELIVERED),
    ("003013", ["Rejected UserInBlackList"], MessageStatus.FAILED),
]


@pytest.mark.parametrize(("ending", "reports", "fate"), LIVES)
def test_each_life_of_a_message_has_its_reports(
    town: Town, ending: str, reports: list[str], fate: MessageStatus
) -> None:
    town.send(f"+254700{ending}")
    town.settle()

    assert [" ".join(filter(None, one)) for one in town.receiver.reports()] == reports
    assert [one.status for one in town.simulator.messages()] == [fate]


def test_every_report_mode_can_be_switched_on_without_a_magic_number(town: Town) -> None:
    by_mode = {magic.report_mode: ending for ending, magic in MAGIC.items() if magic.report_mode}
    assert {*by_mode, ReportMode.NORMAL} == set(ReportMode)
    expected = {ending: reports for ending, reports, _ in LIVES}

    for mode, ending in by_mode.items():
        town.receiver.got.clear()
        town.ask("POST", "/faults", json={"report_mode": mode, "late_s": 0})
        town.send(ONE)
        town.settle()
        assert [" ".join(filter(None, one)) for one in town.receiver.reports()] == expected[ending]


def test_a_report_is_a_form_with_the_message_and_its_operator(town: Town) -> None:
    (kenyan, failing) = recipients(town.send("+254711000001", "+256711003001"))
    town.settle()

    forms = [form for path, form in town.receiver.got if path == "/hook/s3cret/delivery/"]
    assert [form for form in forms if form["id"] == kenyan["messageId"]][-1] == {
        "id": kenyan["messageId"],
        "status": "Success",
        "phoneNumber": "+254711000001",
        "networkCode": "63902",
        "retryCount": "0",
    }
    last = [form for form in forms if form["id"] == failing["messageId"]][-1]
    assert (last["failureReason"], last["networkCode"]) == ("DeliveryFailure", "64110")
    assert town.receiver.content_types == {"application/x-www-form-urlencoded"}


def test_an_early_report_is_there_before_the_answer(town: Town) -> None:
    town.ask("POST", "/faults", json={"report_delay_s": 60})
    town.receiver.pause_s = 0.1

    (one,) = recipients(town.send("+254700003010"))

    assert town.receiver.reports() == [("Sent", None), ("Success", None)]
    assert {form["id"] for _, form in town.receiver.got} == {one["messageId"]}


def test_a_late_report_comes_late(town: Town) -> None:
    asked = time.monotonic()
    town.send("+254700003011")
    town.settle()

    assert town.receiver.at[0] - asked >= SWIFT.late_s


def test_a_report_is_posted_again_until_it_is_answered_200(town: Town) -> None:
    town.receiver.answers.extend([503, 204, 200])

    town.send(ONE)
    town.settle()

    assert [status for status, _ in town.receiver.reports()] == ["Sent"] * 3 + ["Success"]
    assert town.simulator.messages()[0].reports == ["Sent: 200", "Success: 200"]


def test_a_report_nobody_takes_is_given_up_and_never_goes_elsewhere(town: Town) -> None:
    town.receiver.answers.extend([307] * 4)

    town.send("+254700003007")
    town.settle()

    assert [path for path, _ in town.receiver.got] == ["/hook/s3cret/delivery/"] * 4
    assert town.simulator.messages()[0].reports == ["Sent: 307"]


def test_a_report_to_a_closed_door_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings = SimulatorSettings(
        callback_url=f"http://127.0.0.1:{port}", report_delay_s=0, retry_delays_s=(0,)
    )

    async def send() -> list[str]:
        simulator = Simulator(settings)
        transport = httpx.ASGITransport(simulator.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            method, path, more = a_send("+254700003007")
            await client.request(method, path, headers={"apiKey": "k"}, **more)
        await simulator.settle()
        await simulator.aclose()
        return simulator.messages()[0].reports

    assert asyncio.run(send()) == ["Sent: ConnectError"]


# The person at the handset


def test_a_text_typed_at_a_handset_comes_in(town: Town) -> None:
    town.send(ONE, **{"from": "SAVANNAH"})
    town.settle()
    town.receiver.got.clear()

    answer = town.ask("POST", "/reply", json={"from": ONE, "text": "Asante & kwaheri"})
    town.settle()

    assert answer.status_code == 202
    ((path, form),) = town.receiver.got
    assert path == "/hook/s3cret/inbound/"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", form.pop("date"))
    assert re.fullmatch(r"\d{20}", form.pop("linkId"))
    assert form == {
        "from": ONE,
        "to": "SAVANNAH",
        "text": "Asante & kwaheri",
        "id": answer.json()["id"],
        "networkCode": "63902",
    }
    assert [(one.typed, one.status) for one in town.simulator.handsets()[ONE]] == [
        (False, MessageStatus.DELIVERED),
        (True, MessageStatus.DELIVERED),
    ]


def test_an_inbound_text_nobody_takes_shows_as_failed(town: Town) -> None:
    town.receiver.answers.extend([500] * 4)

    town.ask("POST", "/reply", json={"from": ONE, "text": "Asante"})
    town.settle()

    (message,) = town.simulator.messages()
    assert (message.status, message.detail) == (MessageStatus.FAILED, "inbound callback: 500")


def test_an_opt_out_names_the_sender_and_the_number(town: Town) -> None:
    answer = town.ask("POST", "/optout", json={"from": ONE, "sender": "SAVANNAH"})
    town.settle()

    assert answer.status_code == 202
    assert town.receiver.got == [
        ("/hook/s3cret/optout/", {"senderId": "SAVANNAH", "phoneNumber": ONE})
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/reply", {"from": "0711000001", "text": "x"}),
        ("/reply", {"from": ONE, "text": " "}),
        ("/reply", {"from": ONE}),
        ("/optout", {"from": "x", "sender": "SAVANNAH"}),
        ("/optout", {"from": ONE}),
        ("/faults", {"mode": "broken"}),
        ("/faults", {"report_mode": ["normal"]}),
        ("/faults", {"slow_s": 1, "hang_s": -1}),
        ("/faults", {"times": True}),
        ("/faults", {"colour": "red"}),
        ("/faults", ["mode"]),
    ],
)
def test_an_impossible_wish_is_refused_and_changes_nothing(
    town: Town, path: str, body: object
) -> None:
    before = town.simulator.faults.as_json()

    answer = town.ask("POST", path, json=body)

    assert answer.status_code == 400
    assert answer.json()["detail"]
    assert town.simulator.faults.as_json() == before
    assert (town.simulator.messages(), town.receiver.got) == ((), [])


@pytest.mark.parametrize("path", ["/faults", "/reply", "/optout", "/reset"])
def test_a_form_of_a_foreign_page_turns_nothing(town: Town, path: str) -> None:
    town.send(ONE)

    answer = town.ask("POST", path, data={"mode": "hang", "from": ONE, "text": "x"})

    assert answer.status_code == 415
    assert len(town.simulator.messages()) == 1


# Switches


def test_a_mode_can_hold_for_a_number_of_sends(town: Town) -> None:
    town.ask("POST", "/faults", json={"mode": "http_503", "times": 2})

    assert [town.send(ONE).status_code for _ in range(4)] == [503, 503, 201, 201]
    assert len(town.simulator.received) == 4
    assert len(town.simulator.messages()) == 2


def test_a_magic_number_stands_above_the_switch(town: Town) -> None:
    town.ask("POST", "/faults", json={"mode": "http_500"})

    answers = [town.send("+254700001503"), town.send("+254700000406"), town.send(ONE)]

    assert [one.status_code for one in answers] == [503, 500, 500]


@pytest.mark.parametrize("mode", sorted({magic.mode for magic in MAGIC.values() if magic.mode}))
def test_each_mode_answers_like_its_magic_number(town: Town, mode: Mode) -> None:
    ending = next(ending for ending, magic in MAGIC.items() if magic.mode is mode)

    def outcome(number: str) -> tuple[object, ...]:
        try:
            answer = town.send(number)
        except httpx.TransportError as error:
            return (type(error),)
        return answer.status_code, answer.headers["content-type"], len(answer.content)

    by_number = outcome(f"+254700{ending}")
    town.ask("POST", "/faults", json={"mode": mode})

    assert outcome(ONE) == by_number


def test_a_refusing_gateway_refuses_the_balance_too(town: Town) -> None:
    town.ask("POST", "/faults", json={"mode": "http_401"})

    assert town.ask("GET", "/version1/user?username=desk").status_code == 401


# The page


def test_the_page_is_whole_in_itself(town: Town) -> None:
    page = town.ask("GET", "/")
    script, style = town.ask("GET", "/page.js"), town.ask("GET", "/page.css")

    assert [one.headers["content-type"].partition(";")[0] for one in (page, script, style)] == [
        "text/html",
        "text/javascript",
        "text/css",
    ]
    assert "'unsafe-inline'" not in page.headers["content-security-policy"]
    links = re.findall(r'(?:src|href|action)="([^"]*)"', page.text)
    assert sorted(links) == ["data:,", "page.css", "page.js"]
    assert not re.search(r"<style|<script>|\son\w+=|\sstyle=", page.text)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|https?:", script.text)
    ids = set(re.findall(r'\bid="([\w-]+)"', page.text))
    assert set(re.findall(r'\$\("([\w-]+)"\)', script.text)) <= ids


def test_the_page_asks_only_for_what_changed(town: Town) -> None:
    town.send(ONE, text="<script>alert(1)</script>")
    town.settle()
    first = town.ask("GET", "/state.json?since=0").json()
    town.send(TWO)
    second = town.ask("GET", f"/state.json?since={first['version']}").json()

    assert [one["text"] for one in first["messages"]] == ["<script>alert(1)</script>"]
    assert (first["messages"][0]["status"], first["messages"][0]["parts"]) == ("delivered", 1)
    assert [one["handset"] for one in second["messages"]] == [TWO]
    assert second["epoch"] == first["epoch"]
    assert town.ask("GET", f"/state.json?since={'9' * 5000}").status_code == 200
    assert "magic" not in second
    assert {entry["kind"] for entry in first["journal"]} == {"send", "delivery"}
    assert "s3cret" not in json.dumps(first)


def test_a_reset_forgets_everything_and_says_so(town: Town) -> None:
    town.ask("POST", "/faults", json={"mode": "slow", "report_delay_s": 60})
    town.send(ONE)
    before = town.ask("GET", "/state.json").json()

    town.ask("POST", "/reset", json={})
    town.settle()

    after = town.ask("GET", "/state.json").json()
    assert (after["messages"], after["journal"]) == ([], [])
    assert after["faults"] == {**before["faults"], "mode": "normal", "report_delay_s": 0.01}
    assert after["epoch"] != before["epoch"]
    assert (town.simulator.received, town.receiver.got) == ((), [])


def test_only_the_last_messages_are_kept() -> None:
    simulator = Simulator(SimulatorSettings(keep=3))

    inside(simulator, *(a_send(f"+25471100000{n}") for n in range(5)))

    assert list(simulator.handsets()) == ["+254711000002", "+254711000003", "+254711000004"]
    assert len(simulator.received) == 3
    assert len(simulator.state()["journal"]) == 3  # type: ignore[arg-type] — a list inside


# Under a mount


def test_under_a_litestar_mount_everything_is_reached(town: Town) -> None:
    client, key = town.client, {"apiKey": "k"}
    redirect = client.get(town.mounted)
    page = client.get(town.mounted, follow_redirects=True)
    style = client.get(f"{town.mounted}/page.css")
    state = client.get(f"{town.mounted}/state.json?since=0")
    sent = client.post(
        f"{town.mounted}/version1/messaging",
        data={"username": "desk", "to": ONE, "message": "Habari"},
        headers={**key, "Accept": "application/json"},
    )
    balance = client.get(f"{town.mounted}/version1/user?username=desk", headers=key)
    strange = client.get(f"{town.mounted}/nothing")

    assert (redirect.status_code, redirect.headers["location"]) == (307, "./simulator/")
    assert str(page.url) == f"{town.mounted}/"
    answers = (page, style, state, sent, balance, strange)
    assert [one.status_code for one in answers] == [200, 200, 200, 201, 200, 404]
    assert sent.headers["content-type"] == "application/json"
    assert town.simulator.received[0].path == "/version1/messaging"


@pytest.mark.parametrize("stripped", [True, False])
def test_under_a_plain_asgi_mount_everything_is_reached(stripped: bool) -> None:
    inner = Simulator().app()

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix("/sms/simulator") if stripped else scope["path"]
        own = {**scope, "path": path, "root_path": "/sms/simulator", "state": {}}
        before = {**own, "state": {}}
        await inner(own, receive, send)
        assert own == before, "the mounted application left a trace"

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(outer)
        base = "http://gateway/sms/simulator"
        async with httpx.AsyncClient(transport=transport, headers={"apiKey": "k"}) as client:
            fields = {"username": "desk", "to": ONE, "message": "Habari"}
            answers = [
                await client.get(f"{base}/"),
                await client.get(f"{base}/page.js"),
                await client.post(f"{base}/version1/messaging", data=fields),
                await client.post(f"{base}/reset", json={}),
                await client.get(f"{base}/nothing"),
            ]
        return [one.status_code for one in answers]

    assert asyncio.run(ask()) == [200, 200, 201, 200, 404]
