"""The gateway's wire: what a request to send says, and the bytes of every answer.

Pure functions of bytes; nothing here remembers anything. Source: Africa's Talking developer pages
"Send Bulk SMS", "Fetch Messages" and "Application Data", and the official Python SDK 2.0.3.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from savannah.entrypoints.simulator.faults import Mode, Rejection

DEFAULT_SENDER: Final = "AFRICASTKNG"

# Exactly this: the official SDK decodes JSON only if nothing follows it.
_JSON: Final = "application/json"
_XML: Final = "application/xml"
_TEXT: Final = "text/plain; charset=utf-8"
_HTML: Final = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; `broken` ones are cut off half-way through the body."""

    status: int
    content_type: str
    body: bytes
    broken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SendFields:
    """What a request to send asks for, whichever endpoint it came to."""

    username: str
    sender: str
    recipients: tuple[str, ...]
    text: str
    enqueue: bool
    hashed: bool  # the one recipient is an operator's hash of a number, not a number


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """The gateway's word on one recipient of a send."""

    number: str
    rejection: Rejection | None = None
    code: int = 101
    message_id: str = "None"
    parts: int = 0
    cost: Decimal = Decimal(0)


class MissingField(Exception):
    """A required field is not in the request; `args[0]` is its name."""


def form_fields(body: bytes) -> dict[str, str]:
    """The fields of a form-encoded body or query; the last of a repeated name counts."""
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def read_send(path: str, content_type: str, body: bytes) -> tuple[Mapping[str, object], SendFields]:
    """The fields as they came, and what they ask for.

    Raises:
        MissingField: a required one is absent or empty.
        ValueError: the JSON body cannot be read.
    """
    if not path.endswith("/bulk"):
        form = form_fields(body)
        numbers = [number.strip() for number in form.get("to", "").split(",")]
        return form, _send_fields(form, "to", numbers, form.get("from", ""))
    fields: dict[str, object] = (
        _json_object(body) if content_type.startswith(_JSON) else dict(form_fields(body))
    )
    listed = fields.get("phoneNumbers", [])
    numbers = [str(number).strip() for number in listed] if isinstance(listed, list) else []
    masked = [str(fields["maskedNumber"])] if fields.get("maskedNumber") and not numbers else []
    sender = str(fields.get("senderId", ""))
    return fields, _send_fields(
        fields, "phoneNumbers", masked or numbers, sender, hashed=bool(masked)
    )


def _json_object(body: bytes) -> dict[str, object]:
    loaded = json.loads(body)
    if not isinstance(loaded, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 — like every other unreadable body
    json.dumps(loaded, ensure_ascii=False).encode()  # half a surrogate pair is no text
    return loaded


def _send_fields(
    fields: Mapping[str, object],
    to_field: str,
    numbers: Sequence[str],
    sender: str,
    *,
    hashed: bool = False,
) -> SendFields:
    recipients = tuple(number for number in numbers if number)
    required = {
        "username": fields.get("username"),
        to_field: recipients,
        "message": fields.get("message"),
    }
    for name, value in required.items():
        if not value:
            raise MissingField(name)
    return SendFields(
        username=str(fields["username"]),
        sender=sender or DEFAULT_SENDER,
        recipients=recipients,
        text=str(fields["message"]),
        enqueue=str(fields.get("enqueue", "0")) == "1",
        hashed=hashed,
    )


def wants_json(accept: str) -> bool:
    return "json" in accept.lower()


def json_answer(value: object, *, status: int = 200) -> Answer:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Answer(status, _JSON, body.encode())


def text_answer(text: str, *, status: int) -> Answer:
    return Answer(status, _TEXT, text.encode())


UNAUTHENTICATED: Final = text_answer("The supplied authentication is invalid", status=401)
RUBBISH: Final = Answer(201, _JSON, b'{"SMSMessageData":{"Message":"Sent to 1/1 Tot<!-- \xff')
UNREADABLE: Final = text_answer("The request body could not be read as JSON", status=400)

# The modes that refuse a whole request at once, with what a proxy or the gateway itself would say.
REFUSALS: Final[Mapping[Mode, Answer]] = {
    Mode.HTTP_400: text_answer("Request is missing required form field 'to'", status=400),
    Mode.HTTP_401: UNAUTHENTICATED,
    Mode.HTTP_429: text_answer("Too many requests", status=429),
    Mode.HTTP_500: text_answer("Internal Server Error", status=500),
    Mode.HTML_502: Answer(
        502,
        _HTML,
        b"<html><head><title>502 Bad Gateway</title></head>"
        b"<body><center><h1>502 Bad Gateway</h1></center></body></html>",
    ),
    Mode.HTTP_503: text_answer("Service Unavailable", status=503),
}


def missing_field(name: str) -> Answer:
    return text_answer(f"Request is missing required form field '{name}'", status=400)


def money(currency: str, amount: Decimal) -> str:
    return f"{currency} {amount:.4f}"


def send_answer(
    recipients: Sequence[Recipient],
    *,
    asked: int,
    currency: str,
    as_json: bool,
    status: int = 201,
) -> Answer:
    """The answer to a send that was understood, recipients in the order they were named."""
    accepted = [recipient for recipient in recipients if recipient.rejection is None]
    total = money(currency, sum((one.cost for one in accepted), Decimal(0))) if accepted else "0"
    message = f"Sent to {len(accepted)}/{asked} Total Cost: {total}"
    rows = [_recipient_row(recipient, currency) for recipient in recipients]
    return _message_data(message, rows, as_json=as_json, status=status)


def invalid_sender(*, as_json: bool) -> Answer:
    """How an unknown sender is refused: a 201 whose recipients are empty."""
    return _message_data("InvalidSenderId", [], as_json=as_json, status=201)


def _recipient_row(recipient: Recipient, currency: str) -> dict[str, object]:
    if recipient.rejection is None:
        return {
            "cost": money(currency, recipient.cost),
            "messageId": recipient.message_id,
            "messageParts": recipient.parts,
            "number": recipient.number,
            "status": "Success",
            "statusCode": recipient.code,
        }
    row: dict[str, object] = {
        "cost": "0",
        "messageId": "None",
        "number": recipient.number,
        "status": recipient.rejection.name,
    }
    if recipient.rejection.code is not None:
        row["statusCode"] = recipient.rejection.code
    return row


def _message_data(
    message: str, rows: Sequence[Mapping[str, object]], *, as_json: bool, status: int
) -> Answer:
    if as_json:
        data = {"SMSMessageData": {"Message": message, "Recipients": rows}}
        return json_answer(data, status=status)
    names = ("number", "cost", "status", "messageId")
    recipients = "".join(
        _element("Recipient", "".join(_element(n, escape(str(row[n]))) for n in names))
        for row in rows
    )
    inner = _element("Message", escape(message)) + _element("Recipients", recipients)
    return _xml(_element("SMSMessageData", inner), status=status)


def inbox_answer(messages: Iterable[Mapping[str, object]], *, as_json: bool) -> Answer:
    """The texts people sent to us."""
    rows = list(messages)
    if as_json:
        return json_answer({"SMSMessageData": {"Messages": rows}})
    listed = "".join(
        _element("Message", "".join(_element(n, escape(str(v))) for n, v in row.items()))
        for row in rows
    )
    return _xml(_element("SMSMessageData", _element("Messages", listed)), status=200)


def balance_answer(currency: str, balance: Decimal, *, as_json: bool) -> Answer:
    shown = f"{currency} {balance:.2f}"
    if as_json:
        return json_answer({"UserData": {"balance": shown}})
    return _xml(_element("UserData", _element("balance", shown)), status=200)


def _element(name: str, inner: str) -> str:
    return f"<{name}>{inner}</{name}>"


def _xml(inner: str, *, status: int) -> Answer:
    body = '<?xml version="1.0" encoding="UTF-8"?>' + _element("AfricasTalkingResponse", inner)
    return Answer(status, _XML, body.encode())
