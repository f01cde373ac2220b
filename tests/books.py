"""Do the books balance? What was promised, against what the database and the gateway have.

Whatever failed meanwhile: every acknowledged order is kept once, with all that happened to it;
every message is final, scheduled, or known to be unknown; and no message was handed over again
after an answer that left its outcome open, or told that it had been taken.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]  # it ships none
import httpx
import uvicorn

from savannah.entrypoints.simulator import HandsetMessage, MessageStatus, ReceivedSend, Simulator

IN_FLIGHT: Final = timedelta(seconds=15)  # how long an attempt under way may still arrive

_BUSY: Final = """
SELECT count(*) FROM notifications
WHERE status IN ('queued', 'sending') OR (status = 'deferred' AND due_at < now() + $1)
"""
_NOW: Final = timedelta(0)
_SOON: Final = timedelta(seconds=15)  # longer than programs take to end


@dataclass(slots=True)
class Promise:
    """An order as whoever asked for it knows it.

    Attributes:
        key: stands in the order's `item`, so that it is found again whatever was answered.
        id: None as long as nothing was acknowledged.
        ids: all that were told; more than one would be a broken promise.
        texts: the messages that were told.
    """

    key: str
    customer: str = ""
    id: str | None = None
    ids: set[str] = field(default_factory=set)
    version: int = 0
    status: str = ""
    texts: set[str] = field(default_factory=set)

    def heard(self, order: Mapping[str, Any]) -> None:
        """Note an answer."""
        self.id = order["id"]
        self.ids.add(order["id"])
        self.texts.add(order["sms"]["notification"])
        if order["version"] > self.version:
            self.version, self.status = order["version"], order["status"]


@dataclass(frozen=True, slots=True)
class Books:
    """What is kept."""

    orders: Sequence[Any]
    messages: Sequence[Any]
    events: Sequence[Any]
    busy: int


async def read(database_url: str) -> Books:
    connection = await asyncpg.connect(database_url)
    try:
        events = "SELECT * FROM events WHERE subject = 'order' ORDER BY version"
        return Books(
            await connection.fetch("SELECT * FROM orders"),
            await connection.fetch("SELECT * FROM notifications ORDER BY id"),
            await connection.fetch(events),
            await connection.fetchval(_BUSY, _NOW),
        )
    finally:
        await connection.close()


async def settled(database_url: str, *, within_s: float) -> float:
    """Wait until nothing is under way, nor will be soon; for how long."""
    began = time.monotonic()
    connection = await asyncpg.connect(database_url)
    try:
        while (  # noqa: ASYNC110  what we wait for happens in other processes
            await connection.fetchval(_BUSY, _SOON) and time.monotonic() < began + within_s
        ):
            await asyncio.sleep(0.1)
    finally:
        await connection.close()
    return time.monotonic() - began


def imbalances(
    books: Books,
    promises: Sequence[Promise],
    received: Sequence[ReceivedSend],
    shown: Sequence[HandsetMessage],
    *,
    opted_out: Mapping[str, datetime] | None = None,
) -> list[str]:
    """What does not balance, in words.

    Args:
        received: the requests to send that reached the gateway, in order.
        shown: what it took.
        opted_out: customers, and when they were told that they get no more texts.
    """
    broken = [*_check_orders(books, promises), *_check_texts(books, promises, received, shown)]
    broken += _check_opt_outs(books, received, opted_out or {})
    if books.busy:
        broken.append(f"{books.busy} messages are still under way")
    return broken


def _check_orders(books: Books, promises: Sequence[Promise]) -> Iterator[str]:
    by_key: dict[str, list[Any]] = {}
    for order in books.orders:
        by_key.setdefault(order["item"], []).append(order)
    happened: dict[Any, list[Any]] = {}
    for event in books.events:
        happened.setdefault(event["subject_id"], []).append(event)
    for promise in promises:
        kept = by_key.get(promise.key, [])
        if len(kept) > 1 or len(promise.ids) > 1:
            yield f"{promise.key}: {len(kept)} orders under one key, {len(promise.ids)} told"
        if promise.id is not None and [str(order["id"]) for order in kept] != [promise.id]:
            yield f"{promise.key}: acknowledged and not kept"
        for order in kept:
            if order["version"] < promise.version:
                yield f"{promise.key}: {promise.version=} was told, {order['version']} kept"
            if order["version"] == promise.version and order["status"] != promise.status:
                yield f"{promise.key}: {promise.status} was told, {order['status']} kept"
    for order in books.orders:
        story = happened.get(order["id"], [])
        if [event["version"] for event in story] != list(range(1, order["version"] + 1)):
            yield f"{order['item']}: its events do not count up to version {order['version']}"
        moves = [json.loads(event["data"]).get("to") for event in story[1:]]
        if order["status"] != (moves[-1] if moves else "pending"):
            yield f"{order['item']}: is {order['status']}, its events say {moves}"


def verdict_of(send: ReceivedSend) -> str:
    """What a caller can know from the answer: `accepted`, `refused` or `unsure`."""
    answer = send.answer
    if answer is None or answer.broken:
        return "unsure"
    if answer.status != httpx.codes.CREATED:
        return "refused" if answer.status == httpx.codes.SERVICE_UNAVAILABLE else "unsure"
    try:
        (recipient,) = json.loads(answer.body)["SMSMessageData"]["Recipients"]
    except ValueError:
        return "unsure"
    return "accepted" if recipient["statusCode"] in (100, 101, 102) else "refused"


def _check_texts(
    books: Books,
    promises: Sequence[Promise],
    received: Sequence[ReceivedSend],
    shown: Sequence[HandsetMessage],
) -> Iterator[str]:
    sends = _by_text(received)
    taken = Counter(
        (text.to, text.text) for text in shown if text.status is not MessageStatus.REFUSED
    )
    messages = {(row["to_phone"], row["text"]): row for row in books.messages}
    if len(messages) != len(books.messages):
        yield "two messages with one text"
    if strangers := sends.keys() - messages.keys():
        yield f"{len(strangers)} texts were sent that no message asked for"
    for what, row in messages.items():
        yield from _check_text(row, sends.get(what, []), taken[what])
    known = {str(row["id"]) for row in books.messages}
    told = {text for promise in promises for text in promise.texts}
    if lost := told - known:
        yield f"{len(lost)} messages were told and not kept"
    created = Counter(row["order_id"] for row in books.messages if row["event"] == "order_created")
    yield from (
        f"{order['item']}: {created[order['id']]} messages of its creation"
        for order in books.orders
        if created[order["id"]] != 1
    )


def _by_text(received: Sequence[ReceivedSend]) -> dict[tuple[str, str], list[ReceivedSend]]:
    sends: dict[tuple[str, str], list[ReceivedSend]] = {}
    for send in received:
        assert send.asked is not None
        sends.setdefault((send.asked.recipients[0], send.asked.text), []).append(send)
    return sends


def _check_text(row: Any, sends: Sequence[ReceivedSend], taken: int) -> Iterator[str]:
    name = f"message {row['id']} ({row['status']}, {row['outcome_code']})"
    verdicts = [verdict_of(send) for send in sends]
    if taken > 1:
        yield f"{name}: the gateway took it {taken} times"
    if any(verdict != "refused" for verdict in verdicts[:-1]):
        yield f"{name}: sent again after {verdicts}"
    if row["status"] == "sending":
        yield f"{name}: stuck"
    if row["status"] in ("sent", "delivered") and taken != 1:
        yield f"{name}: the gateway took it {taken} times"
    if row["status"] in ("queued", "deferred", "skipped", "dead") and taken:
        yield f"{name}: the gateway has it"
    # Without balance no attempt is spent.
    spent = sum(
        send.answer is None or verdict == "unsure" or b"InsufficientBalance" not in send.answer.body
        for send, verdict in zip(sends, verdicts, strict=True)
    )
    if spent > row["attempts"]:
        yield f"{name}: {spent} sends in {row['attempts']} attempts"


def _check_opt_outs(
    books: Books, received: Sequence[ReceivedSend], opted_out: Mapping[str, datetime]
) -> Iterator[str]:
    sends = _by_text(received)
    for row in books.messages:
        out_at = opted_out.get(str(row["customer_id"]))
        if out_at is None:
            continue
        arrived = [send.at for send in sends.get((row["to_phone"], row["text"]), ())]
        if arrived and row["handed_at"] > out_at:
            yield f"{row['id']}: begun {row['handed_at'] - out_at} after the opt-out"
        if any(at > out_at + IN_FLIGHT for at in arrived):
            yield f"{row['id']}: arrived long after the opt-out"


# --- the gateway ---------------------------------------------------------------------------------


class GatewayServer(uvicorn.Server):
    """Serves a simulated gateway in the process of those who look into its books."""

    def __init__(self, simulator: Simulator, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                simulator.app(),
                port=port,
                log_config=None,
                access_log=False,
                ws="none",
                timeout_keep_alive=75,
                timeout_graceful_shutdown=1,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are for the whole run."""
        yield


@contextmanager
def served(simulator: Simulator, port: int) -> Iterator[str]:
    """The gateway in a thread of its own; its address."""
    server = GatewayServer(simulator, port)
    thread = threading.Thread(target=server.run, name="gateway")
    thread.start()
    try:
        _wait(lambda: server.started or not thread.is_alive())
        assert server.started
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def _wait(seen: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 120
    while not seen() and time.monotonic() < ends_at:
        time.sleep(0.01)
