"""Which adapter stands behind which port, in one place: the only importer of dependency-injector.

The graph is synchronous. What has to be opened and closed is opened by `opened` and handed in as
an object; a door asks once for `container.savannah()` and passes that on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from dependency_injector import containers, providers
from prometheus_client import CollectorRegistry

from savannah.adapters.africastalking import AfricasTalking
from savannah.adapters.in_process import InProcessQueue
from savannah.adapters.logout_sender import HttpLogoutSender
from savannah.adapters.memory import MemoryCache, MemoryRateLimiter
from savannah.adapters.passwords import Argon2Hasher
from savannah.adapters.prometheus import PrometheusMetrics
from savannah.adapters.proofs import JoseProofs
from savannah.adapters.sql import SqlStorage, migrate, schema_is_current
from savannah.adapters.system import SystemClock, SystemRandomness
from savannah.adapters.tokens import JoseTokens
from savannah.application.customers import Customers
from savannah.application.identity import IdentitySettings
from savannah.application.minting import ID_TOKEN_MOST
from savannah.application.notifications import Notifications
from savannah.application.orders import Orders
from savannah.application.ports import Clock, JobQueue, RateLimiter, Sms, SmsGateway
from savannah.application.reports import Reports
from savannah.application.savannah import Identity, Savannah
from savannah.domain.errors import Unavailable
from savannah.domain.notification import Outcome, RefusalKind, RefusedSms
from savannah.entrypoints.settings import GatewaySettings, Settings
from savannah.entrypoints.shared_metrics import SharedRegistry
from savannah.entrypoints.watch import TimedGateway, Watch

if TYPE_CHECKING:
    from savannah.adapters.saq_queue import SaqQueue
    from savannah.adapters.shared_redis import RedisCache, RedisRateLimiter
    from savannah.adapters.trusted_issuers import JwksIssuers
    from savannah.entrypoints.tracing import Tracing

AUDIENCE: Final = "savannah"
# The simulated gateway takes any key; a live one is never asked without one of its own.
_SIMULATED_KEY: Final = "simulated"
# A database that restarts is back before a worker that stops has to be gone.
_KEEP_AGAIN_AFTER: Final = tuple(timedelta(seconds=pause) for pause in (0.25, 0.5, 1, 2, 4))

# Outcomes that come within it are kept together: a transaction costs as much as ten messages.
_GATHER: Final = timedelta(milliseconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this process is: how it is reached, and the gateway it sends to, if it sends at all.

    Attributes:
        in_company: other processes serve and count beside it, see `share_metrics_in`.
    """

    public_url: str
    gateway_url: str | None = None
    in_company: bool = False


class NoGateway(SmsGateway):
    """For a process that sends nothing: whatever it is asked to send waits for one that does."""

    async def send(self, sms: Sms) -> Outcome:
        del sms
        return RefusedSms(kind=RefusalKind.ACCOUNT, code="no_gateway")


def africas_talking(settings: GatewaySettings, base_url: str) -> AfricasTalking:
    """The gateway at that address, with the operator's name and key."""
    return AfricasTalking(
        base_url=base_url,
        username=settings.username,
        api_key=settings.api_key or _SIMULATED_KEY,
        sender_id=settings.sender_id,
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
    )


def stuck_after(settings: GatewaySettings) -> timedelta:
    """How old an attempt is when its process must have died: a minute with the usual timeouts.

    The adapter gives up after three times both timeouts together, whatever the gateway does.
    """
    return 4 * (settings.connect_timeout + settings.read_timeout) + timedelta(seconds=8)


def saq_queue(url: str) -> SaqQueue:
    """The queue on that Redis; what it needs is loaded only where there is one."""
    from savannah.adapters.saq_queue import SaqQueue

    return SaqQueue(url)


def redis_limiter(url: str, fallback: RateLimiter) -> RedisRateLimiter:
    """The limiter on that Redis, and the one that counts while it is away."""
    from savannah.adapters.shared_redis import RedisRateLimiter

    return RedisRateLimiter(url, fallback=fallback)


def redis_cache(url: str) -> RedisCache:
    """The cache on that Redis."""
    from savannah.adapters.shared_redis import RedisCache

    return RedisCache(url)


def trusted_issuers(settings: Settings, clock: Clock) -> JwksIssuers | None:
    """The other issuers whose tokens are taken; None where there are none."""
    if not settings.trusted_issuers:
        return None
    from savannah.adapters.trusted_issuers import JwksIssuers

    return JwksIssuers(settings.trusted_issuers, clock=clock, loopback=settings.debug)


def _identity_settings(settings: Settings) -> IdentitySettings:
    return IdentitySettings(
        registration_open=settings.registration_open,
        registration_role=settings.registration_role,
        app_creation_open=settings.app_creation_open,
        access_token_ttl=settings.access_token_ttl,
        refresh_grace=settings.refresh_grace,
        login_lock=settings.login_lock,
        login_retention=settings.login_retention,
    )


def _key_overlap(settings: Settings) -> timedelta:
    """As long as tokens live, and caches of our keys and clocks lag (see `oauth.get_keys`)."""
    return max(settings.access_token_ttl, ID_TOKEN_MOST) + timedelta(minutes=6)


def _observed_gateway(
    gateway: SmsGateway, metrics: PrometheusMetrics, tracing: Tracing | None
) -> SmsGateway:
    timed = TimedGateway(gateway, metrics)
    return timed if tracing is None else tracing.gateway(timed)


def _observed_queue(queue: JobQueue, tracing: Tracing | None) -> JobQueue:
    return queue if tracing is None else tracing.queue(queue)


def _watch(
    settings: Settings,
    metrics: PrometheusMetrics,
    notifications: Notifications,
    storage: SqlStorage,
    queue: SaqQueue,
) -> Watch:
    return Watch(
        metrics,
        notifications=notifications,
        connections=storage,
        queued=queue.waiting if settings.has_workers else None,
    )


class Container(containers.DeclarativeContainer):
    """Every part of one process. Override a provider to put something else behind its port."""

    settings = providers.Dependency(instance_of=Settings)
    place = providers.Dependency(instance_of=Place)
    storage = providers.Dependency(instance_of=SqlStorage)
    tracing: providers.Object[Any] = providers.Object(None)  # a `Tracing`, where it is on

    clock: providers.Provider[Clock] = providers.Singleton(SystemClock)
    randomness = providers.Singleton(SystemRandomness)
    registry = providers.Selector(
        providers.Callable(lambda place: "shared" if place.in_company else "own", place),
        own=providers.Singleton(CollectorRegistry),
        shared=providers.Singleton(SharedRegistry),
    )
    metrics = providers.Singleton(PrometheusMetrics, registry)
    own_limiter = providers.Singleton(MemoryRateLimiter, clock)
    limiter = providers.Selector(
        providers.Callable(lambda settings: "shared" if settings.redis_url else "own", settings),
        own=own_limiter,
        shared=providers.Singleton(redis_limiter, settings.provided.redis_url, own_limiter),
    )
    cache = providers.Selector(
        providers.Callable(lambda settings: "shared" if settings.redis_url else "own", settings),
        own=providers.Singleton(MemoryCache, clock),
        shared=providers.Singleton(redis_cache, settings.provided.redis_url),
    )
    queue = providers.Selector(
        providers.Callable(lambda settings: "redis" if settings.has_workers else "own", settings),
        own=providers.Singleton(InProcessQueue),
        redis=providers.Singleton(saq_queue, settings.provided.redis_url),
    )
    gateway = providers.Selector(
        providers.Callable(lambda place: "sends" if place.gateway_url else "silent", place),
        sends=providers.Singleton(
            africas_talking, settings.provided.gateway, place.provided.gateway_url
        ),
        silent=providers.Singleton(NoGateway),
    )

    observed_gateway = providers.Singleton(_observed_gateway, gateway, metrics, tracing)
    observed_queue = providers.Singleton(_observed_queue, queue, tracing)

    hasher = providers.Singleton(Argon2Hasher)
    tokens = providers.Singleton(
        JoseTokens,
        storage=storage,
        clock=clock,
        secret_key=settings.provided.secret_key,
        issuer=place.provided.public_url,
        audience=AUDIENCE,
        overlap=providers.Callable(_key_overlap, settings),
    )
    issuers = providers.Singleton(trusted_issuers, settings, clock)
    logout_sender = providers.Singleton(HttpLogoutSender, allow_loopback=settings.provided.debug)
    identity = providers.Singleton(
        Identity.over,
        storage=storage,
        tokens=tokens,
        hasher=hasher,
        limiter=limiter,
        clock=clock,
        randomness=randomness,
        proofs=providers.Singleton(JoseProofs),
        logout_sender=logout_sender,
        settings=providers.Singleton(_identity_settings, settings),
        issuer=place.provided.public_url,
        ticket_key=providers.Callable(lambda settings: settings.derived_key("tickets"), settings),
        issuers=issuers,
    )
    customers = providers.Singleton(
        Customers,
        storage=storage,
        clock=clock,
        randomness=randomness,
        business=settings.provided.business,
    )
    orders = providers.Singleton(
        Orders,
        storage=storage,
        jobs=queue,
        clock=clock,
        randomness=randomness,
        metrics=metrics,
        business=settings.provided.business,
    )
    notifications = providers.Singleton(
        Notifications,
        storage=storage,
        gateway=observed_gateway,
        jobs=observed_queue,
        clock=clock,
        randomness=randomness,
        metrics=metrics,
        business=settings.provided.business,
        stuck_after=providers.Callable(stuck_after, settings.provided.gateway),
        keep_again_after=_KEEP_AGAIN_AFTER,
        gather=_GATHER,
        report_retention=settings.provided.report_retention,
    )
    watch = providers.Singleton(_watch, settings, metrics, notifications, storage, queue)
    reports = providers.Singleton(
        Reports,
        storage=storage,
        clock=clock,
        business=settings.provided.business,
        cache=cache,
    )
    savannah = providers.Singleton(
        Savannah,
        customers=customers,
        orders=orders,
        notifications=notifications,
        reports=reports,
        identity=identity,
        business=settings.provided.business,
        storage=storage,
    )


def assembled(
    settings: Settings, place: Place, storage: SqlStorage, tracing: Tracing | None = None
) -> Container:
    """The parts of one process, none of them opened."""
    return Container(
        settings=providers.Object(settings),
        place=providers.Object(place),
        storage=providers.Object(storage),
        tracing=providers.Object(tracing),
    )


@asynccontextmanager
async def opened(
    settings: Settings, place: Place, *, observed: bool = False
) -> AsyncIterator[Container]:
    """The parts of one process over a database with the right schema, closed at the end.

    Args:
        observed: report to OpenTelemetry and Sentry what happens here, where settings say so.

    Raises:
        Unavailable: the database does not answer, or somebody has to migrate it first.
    """
    storage = SqlStorage.open(
        settings.database_url,
        pool_size=settings.database_pool_size,
        prepared_statements=settings.database_prepared_statements,
        replicas=settings.database_replica_urls,
    )
    tracing = _started(settings) if observed else None
    container = assembled(settings, place, storage, tracing)
    closing = AsyncExitStack()
    try:
        if not await schema_is_current(storage):
            if not settings.embedded:
                raise Unavailable("The database has an old schema or none: run `savannah migrate`")
            await migrate(settings.database_url)
        if not settings.embedded:
            # Several machines may work on it, and each one's own clock may be wrong.
            from savannah.adapters.sql.clock import DatabaseClock

            clock = DatabaseClock(storage)
            await clock.start()
            closing.push_async_callback(clock.stop)
            container.clock.override(providers.Object(clock))
        yield container
    finally:
        await closing.aclose()
        gateway = container.gateway()
        if isinstance(gateway, AfricasTalking):
            await gateway.aclose()
        if (issuers := container.issuers()) is not None:
            await issuers.aclose()
        await container.logout_sender().aclose()
        if settings.redis_url is not None:
            await container.limiter().close()
            await container.cache().close()
        if settings.has_workers:
            await container.queue().close()
        await storage.close()
        if tracing is not None:
            await tracing.stop()


def _started(settings: Settings) -> Tracing | None:
    """Begin to report; what that needs is loaded only where it is asked for."""
    if settings.sentry_dsn is not None:
        from savannah.entrypoints import sentry

        sentry.start(settings.sentry_dsn, debug=settings.debug)
    if settings.otlp_endpoint is None:
        return None
    from savannah.entrypoints.tracing import Tracing

    return Tracing(settings.otlp_endpoint)
