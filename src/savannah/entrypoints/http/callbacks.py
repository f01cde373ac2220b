"""What the gateway tells us, as Africa's Talking posts it: reports, texts, opt-outs, USSD.

The secret in the path is what proves the sender; the gateway signs nothing. Once that fits, the
answer is exactly 200, because the gateway posts again until it gets one. What cannot be used would
be no better the next time: it is logged.
Source: Africa's Talking developer pages "SMS Notifications" and "USSD".
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from litestar import MediaType, Response
from litestar.params import FromPath

from savannah.adapters.africastalking import delivery_report
from savannah.domain.errors import NotFound
from savannah.domain.phone import PhoneNumber, PhoneRefused
from savannah.entrypoints.http.door import AnyResponse, Door, TheDoor
from savannah.entrypoints.http.operations import Operation, Param, Schema, endpoint
from savannah.entrypoints.http.requests import AnyRequest, read_body

log = logging.getLogger("savannah.callbacks")

TAG: Final = "Callbacks of the gateway"
SOURCE: Final = "gateway"
# In both languages of our texts; a word in a longer text is no command.
_STOP_WORDS: Final = frozenset({"stop", "stop all", "stopall", "unsubscribe", "acha", "sitisha"})
_MOST_FIELDS: Final = 50
_USSD_ANSWER: Final = "END There is no menu on this number. Please call the shop."

_TEXT: Final[Schema] = {"type": "string"}


def _operation(id_: str, summary: str, *form: Param) -> Operation:
    return Operation(
        id=id_,
        tag=TAG,
        summary=summary,
        auth="none",
        form=form,
        media="text/plain",
        path_schemas={"token": {"type": "string"}},
        errors=(400, 404, 413),
        about="Fields besides these are ignored. A form that cannot be used is logged and answered "
        "like any other: the gateway would only post it again.",
    )


async def _form(request: AnyRequest, door: Door, token: str) -> Mapping[str, str]:
    """The form of a caller who knows the secret; of a repeated field the first one counts.

    Raises:
        NotFound: the secret is another one. DoorError: 400, the body broke off.
        HTTPException: 413, of the framework.
    """
    known, shown = door.options.callback_token.encode(), token.encode("utf-8", "surrogatepass")
    if not hmac.compare_digest(known, shown):
        raise NotFound
    raw = await read_body(request)
    try:
        pairs = parse_qsl(
            raw.decode(),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        log.warning("a callback whose body is not a form")
        return {}
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields.setdefault(name, value)
    return fields


def _phone(typed: str, *, region: str) -> PhoneNumber | None:
    """The subscriber's number; None for a sender that is a word, as some operators are.

    The gateway writes numbers with their country; a plus that was not escaped arrives as a blank.
    """
    for spelling in (typed, f"+{typed}"):
        try:
            return PhoneNumber.parse(spelling, region=region)
        except PhoneRefused:
            continue
    return None


async def _opt_out(door: Door, typed: str) -> None:
    phone = _phone(typed, region=door.savannah.business.region)
    if phone is None:
        log.warning("an opt-out without a usable number")
        return
    changed = await door.savannah.customers.opt_out(phone.e164, source=SOURCE)
    log.info("a subscriber wants no more texts", extra={"customers": changed})


def _taken(text: str = "OK") -> AnyResponse:
    return Response(text, media_type=MediaType.TEXT)


@endpoint(
    "POST",
    "/sms/africastalking/{token:str}/delivery/",
    _operation(
        "reportDelivery",
        "Take a delivery report",
        Param("id", _TEXT, "The message's id, from the answer to its sending."),
        Param("status", _TEXT, "What became of it: `Success`, `Failed`, …"),
        Param("phoneNumber", _TEXT, "The subscriber's number."),
        Param("networkCode", _TEXT, "The subscriber's network."),
        Param("failureReason", _TEXT, "With `Failed` and `Rejected`."),
    ),
)
async def report_delivery(request: AnyRequest, token: FromPath[str], door: TheDoor) -> AnyResponse:
    form = await _form(request, door, token)
    try:
        report = delivery_report(form, received_at=door.clock.now())
    except ValueError:
        log.warning("a delivery report without a usable id or status")
    else:
        await door.savannah.notifications.record_report(report)
    return _taken()


@endpoint(
    "POST",
    "/sms/africastalking/{token:str}/inbound/",
    _operation(
        "takeInbound",
        "Take a text from a subscriber",
        Param("from", _TEXT, "The subscriber's number."),
        Param("text", _TEXT, "What was written."),
    ),
)
async def take_inbound(request: AnyRequest, token: FromPath[str], door: TheDoor) -> AnyResponse:
    form = await _form(request, door, token)
    words = " ".join(form.get("text", "").casefold().strip(" \t\r\n.,!").split())
    if words in _STOP_WORDS:
        await _opt_out(door, form.get("from", ""))
    return _taken()


@endpoint(
    "POST",
    "/sms/africastalking/{token:str}/optout/",
    _operation(
        "takeOptOut",
        "Take a subscriber's wish to get no more texts",
        Param("phoneNumber", _TEXT, "The subscriber's number."),
    ),
)
async def take_opt_out(request: AnyRequest, token: FromPath[str], door: TheDoor) -> AnyResponse:
    form = await _form(request, door, token)
    await _opt_out(door, form.get("phoneNumber", ""))
    return _taken()


@endpoint(
    "POST",
    "/sms/africastalking/{token:str}/ussd/",
    _operation(
        "answerUssd",
        "Answer a USSD session",
        Param("phoneNumber", _TEXT, "The subscriber's number."),
        Param("text", _TEXT, "What was dialled so far."),
    ),
)
async def answer_ussd(request: AnyRequest, token: FromPath[str], door: TheDoor) -> AnyResponse:
    await _form(request, door, token)
    return _taken(_USSD_ANSWER)


ROUTES = [report_delivery, take_inbound, take_opt_out, answer_ussd]
