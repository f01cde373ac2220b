"""Use cases on numbers: one customer's statistics and the business's analytics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from savannah.application.business import Business
from savannah.application.ports import Cache, Clock, Storage
from savannah.domain import statistics
from savannah.domain.access import Caller, Scope
from savannah.domain.customer import CustomerId
from savannah.domain.statistics import Analytics, AnalyticsSums, CustomerStats, Interval, Period

KEPT_FOR: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSums:
    """What was found for one report, when, and under which stamp of the storage."""

    stamp: str
    as_of: datetime
    sums: AnalyticsSums


class Reports:
    """The numbers; every method checks the caller's permission first."""

    def __init__(
        self, *, storage: Storage, clock: Clock, business: Business, cache: Cache | None = None
    ) -> None:
        self._storage = storage
        self._cache = cache
        self._clock = clock
        self._business = business

    async def customer_stats(
        self, customer_id: CustomerId, *, currency: str | None = None, by: Caller
    ) -> CustomerStats:
        """What one customer has ordered and was texted. Raises: InsufficientScope, NotFound."""
        by.require(Scope.ANALYTICS_READ)
        async with self._storage(reading="each") as uow:
            sums = await uow.reports.customer(customer_id)
            if not sums.by_status:  # whoever has ordered is there
                await uow.customers.get(customer_id)
            return statistics.customer_stats(
                customer=customer_id,
                currency=currency or self._business.currency,
                sums=sums,
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
            about = (period.start, period.end, period.zone, chosen, customer)
            key = f"analytics {' '.join(map(str, about))}"
            stamp = None if self._cache is None else await uow.reports.stamp()
            kept = await self._kept(key, stamp, now)
            if kept is None:
                sums = await uow.reports.analytics(
                    period=period, currency=chosen, customer=customer, now=now
                )
                kept = KeptSums(stamp=stamp or "", as_of=now, sums=sums)
                if self._cache is not None and stamp is not None:
                    await self._cache.put(key, kept, keep=KEPT_FOR)
        return statistics.analytics(
            period=period, currency=chosen, sums=kept.sums, as_of=kept.as_of
        )

    async def _kept(self, key: str, stamp: str | None, now: datetime) -> KeptSums | None:
        """What was computed under the same stamp, not long ago."""
        if self._cache is None or stamp is None:
            return None
        kept = await self._cache.get(key, KeptSums)
        if kept is None or kept.stamp != stamp or not timedelta() <= now - kept.as_of <= KEPT_FOR:
            return None
        return kept
