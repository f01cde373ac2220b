"""Which endpoints the REST door has: the application serves them, the document describes them."""

from __future__ import annotations

from typing import Final

from litestar.handlers import HTTPRouteHandler

from savannah.entrypoints.http import (
    apps,
    auth,
    callbacks,
    customers,
    notifications,
    ops,
    orders,
    reports,
    users,
)

API_PREFIX: Final = "/api"

API_ROUTES: Final[list[HTTPRouteHandler]] = [
    *auth.ROUTES,
    *apps.ROUTES,
    *users.ROUTES,
    *customers.ROUTES,
    *orders.ROUTES,
    *reports.ROUTES,
    *notifications.ROUTES,
    *callbacks.ROUTES,
    *ops.API_ROUTES,
]
