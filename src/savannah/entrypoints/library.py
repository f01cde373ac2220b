"""The door for Python programs: Savannah in memory, without a server, a database or a queue.

Programs with adapters of their own build `Savannah` themselves, as `in_memory` does.
"""

from __future__ import annotations

from savannah.adapters.memory import InlineQueue, MemoryGateway, MemoryStorage, NullMetrics
from savannah.adapters.system import SystemClock, SystemRandomness
from savannah.application.business import Business
from savannah.application.customers import Customers
from savannah.application.notifications import Notifications
from savannah.application.orders import Orders
from savannah.application.ports import Clock, Metrics, Randomness, SmsGateway, Storage
from savannah.application.reports import Reports
from savannah.application.savannah import Savannah


def in_memory(
    *,
    gateway: SmsGateway | None = None,
    storage: Storage | None = None,
    clock: Clock | None = None,
    randomness: Randomness | None = None,
    metrics: Metrics | None = None,
    business: Business | None = None,
) -> Savannah:
    """Savannah in this process alone; whatever is not given is kept in memory.

    There is no queue: `notifications.dispatch_due()` sends what is due before it returns. There
    are no accounts either, since the program knows its users: it says who calls with a `Caller`.
    """
    storage = storage or MemoryStorage()
    clock = clock or SystemClock()
    randomness = randomness or SystemRandomness()
    metrics = metrics or NullMetrics()
    business = business or Business()
    queue = InlineQueue()
    notifications = Notifications(
        storage=storage,
        gateway=gateway or MemoryGateway(),
        jobs=queue,
        clock=clock,
        randomness=randomness,
        metrics=metrics,
        business=business,
    )
    queue.bind(notifications.send)
    return Savannah(
        customers=Customers(storage=storage, clock=clock, randomness=randomness, business=business),
        orders=Orders(
            storage=storage,
            jobs=queue,
            clock=clock,
            randomness=randomness,
            metrics=metrics,
            business=business,
        ),
        notifications=notifications,
        reports=Reports(storage=storage, clock=clock, business=business),
        identity=None,
        business=business,
        storage=storage,
    )
