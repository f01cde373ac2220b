"""Savannah as one value: what every door receives."""

from __future__ import annotations

from dataclasses import dataclass

from savannah.application.business import Business
from savannah.application.customers import Customers
from savannah.application.identity import Identity
from savannah.application.notifications import Notifications
from savannah.application.orders import Orders
from savannah.application.ports import Storage
from savannah.application.reports import Reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Savannah:
    """The use cases by noun. `identity` is None where the program that embeds knows its users.

    `storage` is for the doors' health checks; the use cases are the way to the data.
    """

    customers: Customers
    orders: Orders
    notifications: Notifications
    reports: Reports
    identity: Identity | None
    business: Business
    storage: Storage
