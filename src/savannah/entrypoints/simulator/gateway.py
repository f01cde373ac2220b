"""The simulated gateway itself: what it received, what each handset shows, the reports it posts.

Knows nothing of HTTP servers; `app.py` is its door. All state is in memory and bounded.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from savannah.domain.sms_text import segment
from savannah.entrypoints.simulator import wire
from savannah.entrypoints.simulator.callbacks import (
    TAKEN,
    Callbacks,
    network_code,
    report_form,
    without_secret,
)
from savannah.entrypoints.simulator.faults import (
    LIVES,
    MAGIC,
    ORDINARY,
    REJECTIONS,
    Faults,
    Magic,
    Mode,
    Rejection,
    Report,
    ReportMode,
    magic_of,
)

_NUMBER: Final = re.compile(r"\+[1-9][0-9]{6,14}")
_EARLY_WAIT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """How a simulated gateway starts out; the switches of its page change delays and faults later.

    `callback_url` is the root of the receiver: reports go to `{callback_url}/delivery/`, texts from
    handsets to `/inbound/`, opt-outs to `/optout/`, and nothing ever goes to another address.
    With `api_key` None any key but the empty one is right; with `registered_senders` None any
    sender is known. `retry_delays_s` are the pauses after each callback that was not answered 200.
    """

    callback_url: str | None = None
    api_key: str | None = None
    report_delay_s: float = 0.5
    slow_s: float = 3.0
    hang_s: float = 60.0
    late_s: float = 30.0
    retry_delays_s: tuple[float, ...] = (0.5, 2.0, 5.0)
    currency: str = "KES"
    price_per_part: Decimal = Decimal("0.8000")
    balance: Decimal = Decimal("1000000.00")
    registered_senders: frozenset[str] | None = None
    keep: int = 1000


class MessageStatus(StrEnum):
    """What truly became of a message, whatever the reports say."""

    REFUSED = "refused"
    ACCEPTED = "accepted"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"


# A status word that is not here tells nothing of the handset.
_FATE: Final = {
    "Sent": MessageStatus.SENT,
    "Success": MessageStatus.DELIVERED,
    "Failed": MessageStatus.FAILED,
    "Rejected": MessageStatus.FAILED,
    "AbsentSubscriber": MessageStatus.FAILED,
    "Expired": MessageStatus.FAILED,
}


@dataclass(slots=True, kw_only=True)
class HandsetMessage:
    """One message as a handset shows it; `typed` ones were written by the person holding it."""

    id: str
    handset: str
    sender: str
    to: str
    text: str
    parts: int
    status: MessageStatus
    at: datetime
    typed: bool = False
    detail: str = ""
    reports: list[str] = field(default_factory=list)
    changed: int = 0

    def as_json(self) -> dict[str, object]:
        return {
            "id": self.id,
            "handset": self.handset,
            "from": self.sender,
            "to": self.to,
            "text": self.text,
            "parts": self.parts,
            "status": self.status,
            "at": _rfc3339(self.at),
            "typed": self.typed,
            "detail": self.detail,
            "reports": self.reports,
        }


@dataclass(slots=True, kw_only=True)
class ReceivedSend:
    """One request to send, as it arrived; header names are lower-case.

    `fields` and `asked` stay None for an unreadable body, `answer` for a caller who left.
    """

    at: datetime
    path: str
    headers: Mapping[str, str]
    body: bytes
    fields: Mapping[str, object] | None = None
    asked: wire.SendFields | None = None
    answer: wire.Answer | None = None


class Gateway:
    """A gateway that takes texts, shows them on handsets and reports on them.

    Use it from one event loop; `received`, `messages` and `callback_url` may be used from others.
    """

    def __init__(self, settings: SimulatorSettings = SimulatorSettings()) -> None:
        self.callback_url = settings.callback_url
        self._settings = settings
        self._callbacks = Callbacks(settings.retry_delays_s, self._note)
        self._lives: set[asyncio.Task[Any]] = set()
        self._pauses: set[asyncio.Task[Any]] = set()
        self._forget()

    def _forget(self) -> None:
        settings = self._settings
        self.faults = Faults(
            slow_s=settings.slow_s,
            hang_s=settings.hang_s,
            report_delay_s=settings.report_delay_s,
            late_s=settings.late_s,
        )
        self._epoch = secrets.token_hex(8)  # tells a page that what it shows is gone
        self._version = 1  # a page that knows nothing asks since 0
        self._balance = settings.balance
        self._received: deque[ReceivedSend] = deque(maxlen=settings.keep)
        self._messages: OrderedDict[str, HandsetMessage] = OrderedDict()
        self._inbox: deque[dict[str, object]] = deque(maxlen=settings.keep)
        self._inbox_count = 0
        self._journal: deque[dict[str, object]] = deque(maxlen=settings.keep)

    # What can be looked at

    @property
    def received(self) -> Sequence[ReceivedSend]:
        """Every request to send that arrived, in order, whatever was answered."""
        return tuple(self._received)

    def messages(self, handset: str | None = None) -> Sequence[HandsetMessage]:
        """The messages of one handset, or of all of them, oldest first."""
        return tuple(
            message
            for message in tuple(self._messages.values())
            if handset is None or message.handset == handset
        )

    def handsets(self) -> Mapping[str, Sequence[HandsetMessage]]:
        """What each handset shows."""
        shown: dict[str, list[HandsetMessage]] = {}
        for message in self.messages():
            shown.setdefault(message.handset, []).append(message)
        return shown

    def state(self, since: int = 0) -> dict[str, object]:
        """Everything that changed after version `since`, for a page that polls."""
        state: dict[str, object] = {
            "epoch": self._epoch,
            "version": self._version,
            "callback": without_secret(self.callback_url),
            "balance": f"{self._settings.currency} {self._balance:.2f}",
            "faults": self.faults.as_json(),
            "messages": [m.as_json() for m in self.messages() if m.changed > since],
            "journal": [e for e in self._journal if int(str(e["version"])) > since],
        }
        if since == 0:
            state["modes"] = list(Mode)
            state["report_modes"] = list(ReportMode)
            state["magic"] = [
                {"ending": "any other", "meaning": ORDINARY.meaning},
                *({"ending": end, "meaning": magic.meaning} for end, magic in MAGIC.items()),
            ]
        return state

    # What the vendor's wire asks

    async def send(
        self,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        caller_left: Callable[[], Awaitable[None]],
    ) -> wire.Answer | None:
        """Take one request to send; None when the caller left before there was an answer."""
        arrival = ReceivedSend(at=datetime.now(UTC), path=path, headers=headers, body=body)
        self._received.append(arrival)
        answer = await self._answer(arrival, caller_left)
        arrival.answer = answer
        verdict = "the caller left" if answer is None else f"{answer.status}"
        if answer is not None and answer.broken:
            verdict += ", cut off"
        count = len(arrival.asked.recipients) if arrival.asked else 0
        self._note("send", f"{path}, recipients: {count} → {verdict}")
        return answer

    async def _answer(
        self, arrival: ReceivedSend, caller_left: Callable[[], Awaitable[None]]
    ) -> wire.Answer | None:
        headers = arrival.headers
        as_json = wire.wants_json(headers.get("accept", ""))
        if not self.knows_key(headers):
            return wire.UNAUTHENTICATED
        try:
            arrival.fields, asked = wire.read_send(
                arrival.path, headers.get("content-type", ""), arrival.body
            )
        except wire.MissingField as missing:
            return wire.missing_field(str(missing))
        except ValueError:
            return wire.UNREADABLE
        arrival.asked = asked
        mode = self._mode_for(asked.recipients)
        if refusal := wire.REFUSALS.get(mode):
            return refusal
        if mode is Mode.INVALID_SENDER or not self._is_registered(asked.sender):
            return wire.invalid_sender(as_json=as_json)
        if mode is Mode.HANG and not await self._pause(self.faults.hang_s, caller_left):
            return None
        answer = await self._accept(asked, mode, as_json=as_json)
        match mode:
            case Mode.SLOW if not await self._pause(self.faults.slow_s, caller_left):
                return None
            case Mode.RUBBISH:
                return wire.RUBBISH
            case Mode.LOST_ANSWER:
                return replace(answer, broken=True)
            case _:
                return answer

    def knows_key(self, headers: Mapping[str, str]) -> bool:
        key, right = headers.get("apikey", ""), self._settings.api_key
        return bool(key) if right is None else secrets.compare_digest(key.encode(), right.encode())

    def _is_registered(self, sender: str) -> bool:
        registered = self._settings.registered_senders
        return registered is None or sender in registered or sender == wire.DEFAULT_SENDER

    def inbox(self, *, after: int, as_json: bool) -> wire.Answer:
        """The texts from handsets with a number above `after`."""
        newer = [row for row in self._inbox if int(str(row["id"])) > after]
        return wire.inbox_answer(newer, as_json=as_json)

    def balance(self, *, as_json: bool) -> wire.Answer:
        return wire.balance_answer(self._settings.currency, self._balance, as_json=as_json)

    def _mode_for(self, recipients: Sequence[str]) -> Mode:
        """The first recipient with a will of its own decides for the request, else the switch."""
        for number in recipients:
            if (mode := magic_of(number).mode) is not None:
                return mode
        return self.faults.mode_of_next_send()

    async def _accept(self, asked: wire.SendFields, mode: Mode, *, as_json: bool) -> wire.Answer:
        blanket, status = {
            Mode.INSUFFICIENT_BALANCE: (REJECTIONS[405], 201),
            Mode.HTTP_409: (REJECTIONS[409], 409),
        }.get(mode, (None, 201))
        parts = segment(asked.text).segments
        recipients, early = [], []
        for number in asked.recipients:
            magic = magic_of(number)
            recipient = self._judge(number, asked, magic, blanket, parts)
            message = self._show(asked, recipient, parts, left_out=magic.left_out)
            if magic.left_out:
                continue
            recipients.append(recipient)
            if recipient.rejection is None:
                report_mode = magic.report_mode or self.faults.report_mode
                life = self._start(self._live(message, report_mode), self._lives)
                if report_mode is ReportMode.EARLY:
                    early.append(life)
        if early:
            await asyncio.wait(early, timeout=_EARLY_WAIT_S)
        return wire.send_answer(
            recipients,
            asked=len(asked.recipients),
            currency=self._settings.currency,
            as_json=as_json,
            status=status,
        )

    def _judge(
        self,
        number: str,
        asked: wire.SendFields,
        magic: Magic,
        blanket: Rejection | None,
        parts: int,
    ) -> wire.Recipient:
        cost = self._settings.price_per_part * parts
        rejection = blanket or magic.rejection
        if rejection is None and not asked.hashed and not _NUMBER.fullmatch(number):
            rejection = REJECTIONS[403]
        if rejection is None and cost > self._balance:
            rejection = REJECTIONS[405]
        if rejection is not None or magic.left_out:
            return wire.Recipient(number=number, rejection=rejection)
        self._balance -= cost
        return wire.Recipient(
            number=number,
            code=magic.accepted_code or (102 if asked.enqueue else 101),
            message_id=f"ATXid_{secrets.token_hex(16)}",
            parts=parts,
            cost=cost,
        )

    def _show(
        self, asked: wire.SendFields, recipient: wire.Recipient, parts: int, *, left_out: bool
    ) -> HandsetMessage:
        refused = recipient.rejection is not None or left_out
        message = HandsetMessage(
            id=f"refused_{secrets.token_hex(16)}" if refused else recipient.message_id,
            handset=recipient.number,
            sender=asked.sender,
            to=recipient.number,
            text=asked.text,
            parts=parts,
            status=MessageStatus.REFUSED if refused else MessageStatus.ACCEPTED,
            at=datetime.now(UTC),
            detail=recipient.rejection.name if recipient.rejection else "left out" * left_out,
        )
        self._keep(message)
        return message

    # What happens later

    async def _live(self, message: HandsetMessage, mode: ReportMode) -> None:
        if mode is ReportMode.DELAYED:
            await asyncio.sleep(self.faults.late_s)
        for report in LIVES[mode]:
            if mode is not ReportMode.EARLY:
                await asyncio.sleep(self.faults.report_delay_s)
            self._advance(message, report)
            if mode is not ReportMode.MISSING:
                outcome = await self._callbacks.post(
                    self.callback_url, "delivery", report_form(message.id, message.handset, report)
                )
                message.reports.append(f"{report.status}: {outcome}")
                self._touch(message)

    def _advance(self, message: HandsetMessage, report: Report) -> None:
        fate = _FATE.get(report.status)
        if fate is None or message.status is MessageStatus.DELIVERED:
            return
        message.status = fate
        failed = fate is MessageStatus.FAILED
        message.detail = (report.failure_reason or report.status) if failed else ""
        self._touch(message)

    async def reply(self, *, handset: str, text: str, to: str | None = None) -> HandsetMessage:
        """The person at the handset writes back: it stands in the inbox and is posted inbound.

        Without `to` the text goes to whoever wrote to this handset last.

        Raises:
            ValueError: the handset's number is not in international form, or the text is empty.
        """
        _check_handset(handset)
        if not text.strip():
            raise ValueError("the text is empty")
        writers = [message.sender for message in self.messages(handset) if not message.typed]
        at = datetime.now(UTC)
        message = HandsetMessage(
            id=secrets.token_hex(16),
            handset=handset,
            sender=handset,
            to=to or (writers[-1] if writers else wire.DEFAULT_SENDER),
            text=text,
            parts=segment(text).segments,
            status=MessageStatus.SENT,
            at=at,
            typed=True,
        )
        self._keep(message)
        self._inbox_count += 1
        link_id = "".join(secrets.choice("0123456789") for _ in range(20))
        self._inbox.append(
            {
                "linkId": link_id,
                "text": text,
                "to": message.to,
                "id": self._inbox_count,
                "date": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "from": handset,
            }
        )
        form = {
            "date": _rfc3339(at),
            "from": handset,
            "to": message.to,
            "text": text,
            "id": message.id,
            "linkId": link_id,
            "networkCode": network_code(handset),
        }
        self._start(self._carry(message, form), self._lives)
        return message

    async def _carry(self, message: HandsetMessage, form: Mapping[str, str]) -> None:
        outcome = await self._callbacks.post(self.callback_url, "inbound", form)
        taken = outcome == TAKEN
        message.status = MessageStatus.DELIVERED if taken else MessageStatus.FAILED
        message.detail = "" if taken else f"inbound callback: {outcome}"
        self._touch(message)

    async def opt_out(self, *, handset: str, sender: str) -> None:
        """The person at the handset wants no more texts from this sender.

        Raises:
            ValueError: the handset's number is not in international form.
        """
        _check_handset(handset)
        form = {"senderId": sender, "phoneNumber": handset}
        self._start(self._callbacks.post(self.callback_url, "optout", form), self._lives)

    async def settle(self) -> None:
        """Wait until no report or callback is pending."""
        while self._lives:
            await asyncio.wait(tuple(self._lives))

    def reset(self) -> None:
        """Forget everything and turn every switch back; pending reports are dropped."""
        self._cancel()
        self._forget()

    async def aclose(self) -> None:
        """Drop pending reports and callbacks, let hanging callers go."""
        await asyncio.gather(*self._cancel(), return_exceptions=True)
        await self._callbacks.aclose()

    def _cancel(self) -> Sequence[asyncio.Task[Any]]:
        tasks = (*self._lives, *self._pauses)
        for task in tasks:
            task.cancel()
        return tasks

    def _start(
        self, work: Coroutine[Any, Any, Any], among: set[asyncio.Task[Any]]
    ) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)
        return task

    async def _pause(self, seconds: float, caller_left: Callable[[], Awaitable[None]]) -> bool:
        """Keep the caller waiting; whether it waited to the end."""
        pause = self._start(asyncio.sleep(seconds), self._pauses)
        gone = asyncio.ensure_future(caller_left())
        try:
            await asyncio.wait({pause, gone}, return_when=asyncio.FIRST_COMPLETED)
            return not gone.done() and not pause.cancelled()
        finally:
            pause.cancel()
            gone.cancel()

    # Bookkeeping for the page

    def _keep(self, message: HandsetMessage) -> None:
        self._messages[message.id] = message
        while len(self._messages) > self._settings.keep:
            self._messages.popitem(last=False)
        self._touch(message)

    def _touch(self, message: HandsetMessage) -> None:
        self._version += 1
        message.changed = self._version

    def _note(self, kind: str, text: str) -> None:
        self._version += 1
        at = _rfc3339(datetime.now(UTC))
        self._journal.append({"version": self._version, "at": at, "kind": kind, "text": text})


def _check_handset(number: str) -> None:
    if not _NUMBER.fullmatch(number):
        raise ValueError("the handset's number must be + and 7 to 15 digits")


def _rfc3339(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
