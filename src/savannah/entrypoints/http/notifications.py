"""The texts of an order over HTTP: sending one again."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec
from litestar.params import FromPath
from msgspec import UNSET, UnsetType

from savannah.application.idempotency import AlreadyDone
from savannah.domain.access import Scope
from savannah.domain.notification import Notification, SmsStatus
from savannah.domain.notification_policy import SkipReason
from savannah.domain.order import OrderId
from savannah.domain.sms_text import Encoding, Locale, SmsEvent
from savannah.domain.statistics import cost_text
from savannah.entrypoints.http import conditional
from savannah.entrypoints.http.door import LOOKING, AnyResponse, TheCaller, TheDoor
from savannah.entrypoints.http.operations import Moment, MoneySum, Operation, endpoint
from savannah.entrypoints.http.requests import AnyRequest, path_id, read_object

TAG: Final = "Notifications"


class ResendIn(msgspec.Struct, forbid_unknown_fields=True):
    """Which text to send again; by default the one that fits the order's status."""

    event: SmsEvent | UnsetType = UNSET


class NotificationOut(msgspec.Struct):
    """One message; the number is masked."""

    id: UUID
    order: UUID
    event: SmsEvent
    to: str | None
    locale: Locale
    status: SmsStatus
    skip_reason: SkipReason | None
    attempts: int
    segments: int
    encoding: Encoding
    cost: MoneySum | None
    resend_of: UUID | None
    created_at: Moment


class Resent(msgspec.Struct):
    message: str
    notification: NotificationOut


def show(message: Notification) -> NotificationOut:
    """A message as JSON has it."""
    cost = message.cost
    return NotificationOut(
        id=message.id,
        order=message.order_id,
        event=message.event,
        to=None if message.to is None else message.to.masked,
        locale=message.locale,
        status=message.status,
        skip_reason=message.skip_reason,
        attempts=message.attempts,
        segments=message.segments,
        encoding=message.encoding,
        cost=None if cost is None else MoneySum(cost.currency, cost_text(cost.units)),
        resend_of=message.resend_of,
        created_at=message.created_at,
    )


@endpoint(
    "POST",
    "/orders/{order_id:str}/resend_sms/",
    Operation(
        id="resendSms",
        tag=TAG,
        summary="Text the customer of an order again",
        scope=Scope.NOTIFICATIONS_WRITE,
        body=ResendIn,
        body_required=False,
        status=202,
        answer=Resent,
        idempotent=True,
        errors=(400, 404, 409, 413, 415, 422, 429),
    ),
)
async def resend_sms(
    request: AnyRequest, order_id: FromPath[str], door: TheDoor, caller: TheCaller
) -> AnyResponse:
    # Its number never changes, so it may be read before the message is made.
    order = await door.savannah.orders.get(OrderId(path_id(order_id, "order")), by=LOOKING)
    body = await read_object(request)

    def render(message: Notification) -> conditional.Rendered:
        told = Resent(
            message=f"SMS notification queued for order {order.number}",
            notification=show(message),
        )
        return 202, {}, msgspec.json.encode(told)

    once = conditional.once(request, body, render)
    try:
        message = await door.savannah.notifications.resend(order.id, **body, by=caller, once=once)
    except AlreadyDone as done:
        return conditional.replay(done, door.metrics)
    return conditional.respond(render(message))


ROUTES = [resend_sms]
