"""A gateway and a queue that stay in this process: for programs that embed Savannah, and tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from savannah.application.ports import JobQueue, Sms, SmsGateway
from savannah.domain.notification import Accepted, Cost, Outcome, RefusedSms
from savannah.domain.order import NotificationId

Handler = Callable[[Sequence[NotificationId]], Awaitable[object]]

_PRICE: Final = Cost(currency="KES", units=8_000)


class MemoryGateway(SmsGateway):
    """Keeps the texts instead of sending them.

    Attributes:
        sent: the texts that left or, with an unknown outcome, may have left; oldest first.
        refused: the texts that did not leave, each with the refusal.
    """

    def __init__(self, *, cost: Cost | None = _PRICE) -> None:
        self.sent: list[Sms] = []
        self.refused: list[tuple[Sms, RefusedSms]] = []
        self._cost = cost
        self._accepted = 0
        self._next: dict[str | None, deque[Outcome]] = {}
        self._always: dict[str | None, Outcome] = {}

    def answer(self, *outcomes: Outcome, to: str | None = None) -> None:
        """Answer the next texts with these outcomes, one each; afterwards as before.

        With `to` only texts to that E.164 number; such answers come before the general ones.
        """
        self._next.setdefault(to, deque()).extend(outcomes)

    def always_answer(self, outcome: Outcome | None, *, to: str | None = None) -> None:
        """Answer every text with this outcome until further notice; None accepts them again."""
        if outcome is None:
            self._always.pop(to, None)
        else:
            self._always[to] = outcome

    async def send(self, sms: Sms) -> Outcome:
        outcome = self._outcome(sms.to)
        if isinstance(outcome, RefusedSms):
            self.refused.append((sms, outcome))
        else:
            self.sent.append(sms)
        return outcome

    def _outcome(self, to: str) -> Outcome:
        for whose in (to, None):
            if waiting := self._next.get(whose):
                return waiting.popleft()
            if whose in self._always:
                return self._always[whose]
        self._accepted += 1
        return Accepted(provider_id=f"memory-{self._accepted}", cost=self._cost)


class InlineQueue(JobQueue):
    """No queue: whoever enqueues waits until the bound handler is done."""

    def __init__(self) -> None:
        self._handler: Handler | None = None

    def bind(self, handler: Handler) -> None:
        """Say who sends the messages."""
        self._handler = handler

    async def enqueue(self, ids: Sequence[NotificationId]) -> None:
        if self._handler is None:
            raise RuntimeError("Bind a handler to the queue first")
        await self._handler(ids)

    def wake(self) -> None:
        """Nobody listens: what is due is sent when somebody dispatches."""
