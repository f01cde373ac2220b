"""Savannah: an order desk that talks to its customers by SMS.

The public names; each is loaded when it is first used. Whoever writes adapters finds the ports in
`savannah.application.ports`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from savannah.adapters.memory import ManualClock, MemoryGateway, MemoryStorage
    from savannah.application.business import Business
    from savannah.application.idempotency import Once
    from savannah.application.savannah import Savannah
    from savannah.domain.access import Caller, Role, Scope
    from savannah.domain.customer import Customer, CustomerId, Reachability
    from savannah.domain.errors import (
        BadQuery,
        Conflict,
        Denied,
        Invalid,
        InvalidTransition,
        NotFound,
        SavannahError,
        StaleVersion,
        Throttled,
        Unauthenticated,
        Unavailable,
    )
    from savannah.domain.money import Money
    from savannah.domain.notification import (
        Accepted,
        Cost,
        DeliveryReport,
        Notification,
        Outcome,
        RefusalKind,
        RefusedSms,
        Report,
        SmsStatus,
        UnknownOutcome,
    )
    from savannah.domain.notification_policy import Policy, QuietHours, Rate
    from savannah.domain.order import NotificationId, Order, OrderId, Status
    from savannah.domain.paging import Ordering, Page, PageRequest
    from savannah.domain.phone import PhoneNumber, PhoneRefused
    from savannah.domain.sms_text import Locale, SmsEvent
    from savannah.entrypoints.library import in_memory

__all__ = [
    "Accepted",
    "BadQuery",
    "Business",
    "Caller",
    "Conflict",
    "Cost",
    "Customer",
    "CustomerId",
    "DeliveryReport",
    "Denied",
    "Invalid",
    "InvalidTransition",
    "Locale",
    "ManualClock",
    "MemoryGateway",
    "MemoryStorage",
    "Money",
    "NotFound",
    "Notification",
    "NotificationId",
    "Once",
    "Order",
    "OrderId",
    "Ordering",
    "Outcome",
    "Page",
    "PageRequest",
    "PhoneNumber",
    "PhoneRefused",
    "Policy",
    "QuietHours",
    "Rate",
    "Reachability",
    "RefusalKind",
    "RefusedSms",
    "Report",
    "Role",
    "Savannah",
    "SavannahError",
    "Scope",
    "SmsEvent",
    "SmsStatus",
    "StaleVersion",
    "Status",
    "Throttled",
    "Unauthenticated",
    "Unavailable",
    "UnknownOutcome",
    "in_memory",
]

_HOMES = {
    "adapters.memory": ("ManualClock", "MemoryGateway", "MemoryStorage"),
    "application.business": ("Business",),
    "application.idempotency": ("Once",),
    "application.savannah": ("Savannah",),
    "domain.access": ("Caller", "Role", "Scope"),
    "domain.customer": ("Customer", "CustomerId", "Reachability"),
    "domain.errors": (
        "BadQuery",
        "Conflict",
        "Denied",
        "Invalid",
        "InvalidTransition",
        "NotFound",
        "SavannahError",
        "StaleVersion",
        "Throttled",
        "Unauthenticated",
        "Unavailable",
    ),
    "domain.money": ("Money",),
    "domain.notification": (
        "Accepted",
        "Cost",
        "DeliveryReport",
        "Notification",
        "Outcome",
        "RefusalKind",
        "RefusedSms",
        "Report",
        "SmsStatus",
        "UnknownOutcome",
    ),
    "domain.notification_policy": ("Policy", "QuietHours", "Rate"),
    "domain.order": ("NotificationId", "Order", "OrderId", "Status"),
    "domain.paging": ("Ordering", "Page", "PageRequest"),
    "domain.phone": ("PhoneNumber", "PhoneRefused"),
    "domain.sms_text": ("Locale", "SmsEvent"),
    "entrypoints.library": ("in_memory",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__]
