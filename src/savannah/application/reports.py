"""Use cases on numbers: one customer's statistics and the business's analytics."""

from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo

from savannah.application.business import Business
from savannah.application.ports import Clock, Storage
from savannah.domain import statistics
from savannah.domain.access import Caller, Scope
from savannah.domain.customer import CustomerId
from savannah.domain.statistics import Analytics, CustomerStats, Interval, Period


class Reports:
    """The numbers; every method checks the caller's permission first."""

    def __init__(self, *, storage: Storage, clock: Clock, business: Business) -> None:
        self._storage = storage
        self._clock = clock
        self._business = business

    async def customer_stats(
        self, customer_id: CustomerId, *, currency: str | None = None, by: Caller
    ) -> CustomerStats:
        """What one customer has ordered and was texted. Raises: InsufficientScope, NotFound."""
        by.require(Scope.ANALYTICS_READ)
        async with self._storage(reading=True) as uow:
            sums = await uow.reports.customer_sums(customer_id)
            if not sums:  # whoever has ordered is there
                await uow.customers.get(customer_id)
            return statistics.customer_stats(
                customer=customer_id,
                currency=currency or self._business.currency,
                sums=sums,
                sms=await uow.reports.customer_sms(customer_id),
                as_of=self._clock.now(),
            )

    async def analytics(
        self,
        *,
        start: date | None = None,
        end: date | None = None,
        zone: ZoneInfo | None = None,
        interval: Interval = Interval.DAY,
        currency: str | None = None,
        customer: CustomerId | None = None,
        by: Caller,
    ) -> Analytics:
        """The business's numbers over local days; by default the last 30.

        Raises:
            InsufficientScope; BadQuery when the period is upside down or too long.
        """
        by.require(Scope.ANALYTICS_READ)
        now = self._clock.now()
        period = Period.of(
            start=start,
            end=end,
            zone=zone or self._business.policy.zone,
            interval=interval,
            now=now,
        )
        chosen = currency or self._business.currency
        async with self._storage(reading=True) as uow:
            sums = await uow.reports.analytics(
                period=period, currency=chosen, customer=customer, now=now
            )
        return statistics.analytics(period=period, currency=chosen, sums=sums, as_of=now)
