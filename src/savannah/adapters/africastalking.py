"""Texts through Africa's Talking: one request per text, and what each answer means.

Also how the gateway's delivery reports are read. When a message is retried, and what follows a
refusal, is decided in `savannah.domain.notification`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

import httpx

from savannah.application.ports import Sms, SmsGateway
from savannah.application.trace import trace_var
from savannah.domain.errors import Unavailable
from savannah.domain.notification import (
    COST_UNITS,
    Accepted,
    Cost,
    DeliveryReport,
    Outcome,
    RefusalKind,
    RefusedSms,
    Report,
    UnknownOutcome,
)

logger = logging.getLogger("savannah.africastalking")

_MAX_ANSWER: Final = 64 * 1024
_MAX_ID: Final = 128
_MAX_WORD: Final = 64
_IDLE_S: Final = 30.0

_ACCEPTED: Final = frozenset({100, 101, 102})
_RISK_HOLD: Final = 401
# Recipient status codes. Source: developers.africastalking.com, "Send Bulk SMS"; the documentation
# does not say which may be retried, so the classes follow what adapters in production do.
_REFUSALS: Final = {
    402: ("InvalidSenderId", RefusalKind.SENDER),
    403: ("InvalidPhoneNumber", RefusalKind.NUMBER),
    404: ("UnsupportedNumberType", RefusalKind.NUMBER),
    405: ("InsufficientBalance", RefusalKind.ACCOUNT),
    406: ("UserInBlacklist", RefusalKind.BLOCKED),
    407: ("CouldNotRoute", RefusalKind.NUMBER),
    409: ("DoNotDisturbRejection", RefusalKind.NIGHT),
    500: ("InternalServerError", RefusalKind.TEMPORARY),
    501: ("GatewayError", RefusalKind.TEMPORARY),
    502: ("RejectedByGateway", RefusalKind.SENDER),
}
# Old answers carry a word and no code.
_CODES: Final = {name.casefold(): code for code, (name, _) in _REFUSALS.items()} | {
    "processed": 100,
    "success": 101,
    "sent": 101,
    "queued": 102,
    "riskhold": _RISK_HOLD,
    "userinblacklist": 406,
}
# HTTP statuses below 500 whose body does not name the number. Any other one speaks of our
# account or of the address we post to, never of one message: all messages wait for the repair.
_BY_STATUS: Final = {
    400: RefusalKind.NUMBER,
    408: RefusalKind.TEMPORARY,
    409: RefusalKind.NIGHT,
    413: RefusalKind.NUMBER,
    422: RefusalKind.NUMBER,
    425: RefusalKind.TEMPORARY,
    429: RefusalKind.TEMPORARY,
}
_REPORTS: Final = {
    "sent": Report.SENT,
    "submitted": Report.SENT,
    "buffered": Report.SENT,
    "success": Report.DELIVERED,
    "rejected": Report.FAILED,
    "failed": Report.FAILED,
    "absentsubscriber": Report.FAILED,
    "expired": Report.FAILED,
}

_COST: Final = re.compile(r"([A-Z]{3}) ([0-9]{1,9})(?:\.([0-9]{1,4})0*)?")
_PHONE: Final = re.compile(r"(?:\+|00)?([1-9][0-9]{5,14})")


class AfricasTalking(SmsGateway):
    """The live gateway, its sandbox, or anything that speaks like them.

    Args:
        base_url: the root the paths are joined to, such as `https://api.africastalking.com`.
        sender_id: what the phone shows as the sender; None for the gateway's default.
        connect_timeout: for reaching the gateway; nothing has been sent when it ends.
        read_timeout: silence after the request; too short a one makes outcomes unknown.
        max_connections: how many requests run at the same time; others wait their turn.

    Raises:
        ValueError: the address or the key cannot be used in a request.
    """

    def __init__(
        self,
        *,
        base_url: str,
        username: str,
        api_key: str,
        sender_id: str | None = None,
        connect_timeout: timedelta = timedelta(seconds=3),
        read_timeout: timedelta = timedelta(seconds=10),
        max_connections: int = 32,
    ) -> None:
        if not re.fullmatch(r"[!-~]+", api_key):
            raise ValueError("the API key must be visible ASCII characters")
        root = _root(base_url)
        connect, read = connect_timeout.total_seconds(), read_timeout.total_seconds()
        # A turn comes at the latest when somebody else's request has timed out.
        self._turn_s = connect + read
        # A peer that drips bytes never trips a read timeout. Connecting counts twice (TCP, TLS),
        # so when this ends the request has begun.
        self._deadline_s = self._turn_s + 2 * connect + 2 * read
        self._username = username
        self._sender_id = sender_id
        self._send_url = httpx.URL(f"{root}/version1/messaging")
        self._user_url = f"{root}/version1/user"
        self._headers: list[tuple[bytes, bytes]] = [
            (b"Host", self._send_url.netloc),
            (b"apiKey", api_key.encode("ascii")),
            (b"Accept", b"application/json"),
            # Keeps the limit on the size of an answer meaningful.
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", b"savannah"),
        ]
        self._timeouts = {
            "timeout": httpx.Timeout(connect=connect, read=read, write=read, pool=None).as_dict()
        }
        self._lines = _Lines(max_connections)

    async def send(self, sms: Sms) -> Outcome:
        try:
            body = self._form(sms)
        except UnicodeEncodeError:  # half a surrogate pair: no gateway can carry it
            return RefusedSms(kind=RefusalKind.NUMBER, code="unencodable_text")
        try:
            status, content = await self._ask(
                "POST", self._send_url, content=body, kind=b"application/x-www-form-urlencoded"
            )
        except httpx.ConnectTimeout:
            return RefusedSms(kind=RefusalKind.TEMPORARY, code="connect_timeout")
        except httpx.ConnectError:
            return RefusedSms(kind=RefusalKind.TEMPORARY, code="not_connected")
        except httpx.PoolTimeout:
            return RefusedSms(kind=RefusalKind.TEMPORARY, code="no_free_connection")
        except (httpx.TimeoutException, TimeoutError):
            return UnknownOutcome(cause="read_timeout")
        except httpx.HTTPError:
            return UnknownOutcome(cause="connection_lost")
        except Exception as error:  # noqa: BLE001  an outcome is a value, whatever happened
            # The type alone: the message of a protocol error can quote a header, and so the key.
            logger.error("text %s: unexpected %s", sms.id, type(error).__name__)  # noqa: TRY400
            return UnknownOutcome(cause="unexpected_error")
        return _outcome(status, content, to=sms.to)

    async def balance(self) -> str:
        """What the account holds, as the gateway writes it: `KES 1785.50`.

        Raises:
            Unavailable: the gateway cannot be reached, or does not take our name and key.
        """
        url = httpx.URL(f"{self._user_url}?{urlencode({'username': self._username})}")
        try:
            status, content = await self._ask("GET", url)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unavailable(f"The gateway cannot be reached ({type(error).__name__})") from None
        if status == httpx.codes.UNAUTHORIZED:
            raise Unavailable("The gateway does not accept the user name and the API key")
        answer = _json(content)
        user = answer.get("UserData") or answer.get("userData")
        balance = user.get("balance") if isinstance(user, dict) else None
        if status != httpx.codes.OK or not isinstance(balance, str) or not _plain(balance):
            raise Unavailable(f"The gateway's answer cannot be read (HTTP status {status})")
        return balance

    async def aclose(self) -> None:
        """Close the connections; nothing can be sent afterwards."""
        await self._lines.aclose()

    def _form(self, sms: Sms) -> bytes:
        # The fields and their order are the official SDK's, so that both send the same bytes.
        fields = {
            "username": self._username,
            "to": sms.to,
            "message": sms.text,
            "bulkSMSMode": "1",
        }
        if self._sender_id:
            fields["from"] = self._sender_id
        return urlencode(fields).encode("ascii")

    async def _ask(
        self, method: str, url: httpx.URL, *, content: bytes = b"", kind: bytes | None = None
    ) -> tuple[int, bytes | None]:
        """The status and the body, None for a body that broke off or is too long.

        Raises:
            httpx.HTTPError: no status came.
            TimeoutError: likewise, with the request under way.
        """
        headers = self._headers.copy()
        if kind is not None:
            headers += (b"Content-Length", b"%d" % len(content)), (b"Content-Type", kind)
        if (trace := trace_var.get()) is not None:
            headers.append((b"traceparent", trace.traceparent.encode("ascii")))
        request = httpx.Request(
            method,
            url,
            headers=headers,
            stream=httpx.ByteStream(content),
            extensions=self._timeouts,
        )
        status: int | None = None
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                self._lines.taken(turn_s=self._turn_s) as line,
            ):
                response = await line.handle_async_request(request)
                try:
                    status = response.status_code
                    received = bytearray()
                    async for chunk in response.aiter_raw():
                        received += chunk
                        if len(received) > _MAX_ANSWER:
                            return status, None
                    return status, bytes(received)
                finally:
                    await response.aclose()
        except (httpx.HTTPError, TimeoutError):
            if status is None:
                raise
            return status, None


class _Lines:
    """Connections to the gateway, each with a transport of its own.

    A pool of httpx looks at all of its connections and all that wait whenever a request begins or
    ends: with 32 in flight that is three quarters of what a request costs. A client would add
    redirects, cookies and authentication, which this gateway has none of.
    """

    def __init__(self, most: int) -> None:
        self._turns = asyncio.Semaphore(most)
        self._free: list[httpx.AsyncHTTPTransport] = []
        self._all: list[httpx.AsyncHTTPTransport] = []
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._closed = False
        self._free.append(self._new())  # now, since the first one loads half of its library

    @asynccontextmanager
    async def taken(self, *, turn_s: float) -> AsyncIterator[httpx.AsyncHTTPTransport]:
        """A connection for one request. Raises: httpx.PoolTimeout, when none is free in time."""
        if self._closed:
            raise RuntimeError("The connections to the gateway are closed")
        try:
            async with asyncio.timeout(turn_s):
                await self._turns.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("no free connection") from None
        line = self._free.pop() if self._free else self._new()  # the one used last is the warmest
        try:
            yield line
        finally:
            self._free.append(line)
            self._turns.release()

    def _new(self) -> httpx.AsyncHTTPTransport:
        line = httpx.AsyncHTTPTransport(
            verify=self._tls,
            limits=httpx.Limits(
                max_connections=1, max_keepalive_connections=1, keepalive_expiry=_IDLE_S
            ),
        )
        self._all.append(line)
        return line

    async def aclose(self) -> None:
        self._closed = True
        for line in self._all:
            await line.aclose()


def delivery_report(form: Mapping[str, str], *, received_at: datetime) -> DeliveryReport:
    """Read the form the gateway posts when it learns more about a message.

    A word we do not know makes a report that says nothing; `phone` is E.164, or empty when the
    form has no such number.

    Raises:
        ValueError: the message id or the status is missing, too long or not plain text.
    """
    provider_id = _plain(form.get("id", ""), most=_MAX_ID)
    word = _plain(form.get("status", ""))
    if provider_id is None or word is None:
        raise ValueError("a delivery report needs an id and a status of plain, short text")
    # A plus that was not percent-encoded arrives as a blank.
    phone = _PHONE.fullmatch(re.sub(r"[\s().-]", "", form.get("phoneNumber", "")[:_MAX_WORD]))
    return DeliveryReport(
        provider_id=provider_id,
        report=_REPORTS.get(word.casefold()),
        word=word,
        phone=f"+{phone[1]}" if phone else "",
        network_code=_plain(form.get("networkCode", "")),
        failure_reason=_plain(form.get("failureReason", "")),
        received_at=received_at,
    )


def _root(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError("the gateway's address is not a URL") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("the gateway's address must begin with https:// or http:// and a host")
    if url.userinfo or url.query or url.fragment:
        raise ValueError("the gateway's address must have no user, query or fragment")
    return base_url.rstrip("/")


def _outcome(status: int, content: bytes | None, *, to: str) -> Outcome:
    """What an answer says about the text to that number."""
    word = f"http_{status}"
    if status == httpx.codes.SERVICE_UNAVAILABLE:
        return RefusedSms(kind=RefusalKind.TEMPORARY, code=word)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return UnknownOutcome(cause=word)
    if status == httpx.codes.UNAUTHORIZED:
        return RefusedSms(kind=RefusalKind.ACCOUNT, code=word)
    # The documentation has recipients under HTTP 409 as well, so a body outranks its status.
    data = _json(content).get("SMSMessageData")
    recipients = _recipients(data)
    if recipients is not None and (mine := recipients.get(_digits(to))) is not None:
        return _recipient_outcome(mine)
    if not recipients and _refuses_sender(data):
        return RefusedSms(kind=RefusalKind.SENDER, code="InvalidSenderId")
    if not httpx.codes.is_success(status):
        return RefusedSms(kind=_BY_STATUS.get(status, RefusalKind.ACCOUNT), code=word)
    if recipients is None:
        return UnknownOutcome(cause="unreadable_answer")
    return RefusedSms(kind=RefusalKind.NUMBER, code="number_missing")


def _recipient_outcome(recipient: Mapping[str, Any]) -> Outcome:
    status = recipient.get("status")
    word = _plain(status) if isinstance(status, str) else None
    code = _whole(recipient.get("statusCode"))
    if code is None:
        if word is None:
            return UnknownOutcome(cause="unreadable_answer")
        code = _CODES.get(word.replace(" ", "").casefold())
    if code in _ACCEPTED:
        return _accepted(recipient)
    if code == _RISK_HOLD:  # held for a look at it: it may still go out
        return UnknownOutcome(cause="risk_hold")
    if code is None:
        # A free text could repeat the number; a word of letters cannot.
        shown = word if word is not None and re.fullmatch(r"[A-Za-z ]+", word) else "unknown_status"
        return RefusedSms(kind=RefusalKind.NUMBER, code=shown)
    name, kind = _REFUSALS.get(code, (str(code), RefusalKind.NUMBER))
    return RefusedSms(kind=kind, code=name)


def _accepted(recipient: Mapping[str, Any]) -> Outcome:
    given = recipient.get("messageId")
    provider_id = _plain(given, most=_MAX_ID) if isinstance(given, str) else None
    # "None" is what refused recipients get. An acceptance that no report can ever name is not one
    # we could follow; as an unknown one it is settled by the report about its phone.
    if provider_id is None or provider_id.casefold() == "none":
        return UnknownOutcome(cause="accepted_without_id")
    return Accepted(
        provider_id=provider_id,
        cost=_cost(recipient.get("cost")),
        segments=_whole(recipient.get("messageParts")) or None,
    )


def _cost(quoted: object) -> Cost | None:
    match = _COST.fullmatch(quoted) if isinstance(quoted, str) else None
    if match is None:
        return None
    fraction = (match[3] or "").ljust(4, "0")
    return Cost(currency=match[1], units=int(match[2]) * COST_UNITS + int(fraction))


def _json(content: bytes | None) -> dict[str, Any]:
    """The JSON object in an answer; empty when there is none."""
    try:
        found = json.loads(content or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _recipients(data: object) -> dict[str, Mapping[str, Any]] | None:
    """Recipients by the digits of their number; None when the answer has no readable list."""
    listed = data.get("Recipients") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        return None
    recipients: dict[str, Mapping[str, Any]] = {}
    for recipient in listed:
        if not isinstance(recipient, dict) or not isinstance(recipient.get("number"), str):
            return None
        recipients.setdefault(_digits(recipient["number"]), recipient)
    return recipients


def _refuses_sender(data: object) -> bool:
    message = data.get("Message") if isinstance(data, dict) else None
    return isinstance(message, str) and message.strip().casefold() == "invalidsenderid"


def _digits(number: str) -> str:
    return re.sub(r"[^0-9]", "", number)


def _whole(value: object) -> int | None:
    """A small whole number, also when it is written as text."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"[0-9]{1,6}", value) else None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1_000_000:
        return value
    return None


def _plain(text: str, *, most: int = _MAX_WORD) -> str | None:
    """The trimmed text; None when nothing is left or it cannot be stored and shown safely."""
    trimmed = text.strip()
    return trimmed if trimmed and len(trimmed) <= most and trimmed.isprintable() else None
