"""Running: the HTTP API with its outbox, in one process or several, and the simulated gateway.

What is served is in `http` and `simulator`; what is sent is in `worker`; what each process runs on
is in `server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import multiprocessing
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import httpx
from litestar import Litestar
from litestar.types import ASGIApp

from savannah.adapters.prometheus import count_together
from savannah.adapters.sql import SqlStorage
from savannah.entrypoints import logs
from savannah.entrypoints.container import Container, Place, assembled, opened
from savannah.entrypoints.http.app import create_app
from savannah.entrypoints.http.door import HttpOptions
from savannah.entrypoints.server import (
    GRACE,
    Server,
    allow_files,
    bind,
    ended_with_parent,
    own_url,
    run,
    url_of,
)
from savannah.entrypoints.settings import Settings, SettingsError, share_metrics_in
from savannah.entrypoints.shared_metrics import metrics_folder
from savannah.entrypoints.simulator import Simulator, SimulatorSettings
from savannah.entrypoints.slow_clients import ClientLimits
from savannah.entrypoints.supervisor import (
    Child,
    ended_by_signals,
    in_a_process,
    share_what_is_loaded,
    supervise,
)
from savannah.entrypoints.worker import Carrier, LogoutRelay, Outbox
from savannah.entrypoints.worker_page import worker_page

if TYPE_CHECKING:
    from savannah.adapters.saq_queue import SaqQueue
    from savannah.adapters.saq_queue.board import QueueBoard

log = logging.getLogger("savannah.serve")

MOUNT: Final = "/simulator"
# What a server imports only when it runs.
_LOADED_LATER: Final = (
    "anyio._backends._asyncio",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
)


def callback_root(settings: Settings, base: str) -> str:
    """Where the gateway's callbacks go, on the service at that address."""
    return f"{base}/api/sms/africastalking/{settings.callback_secret}"


# --- one process ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What one process does.

    Attributes:
        simulator_url: where the simulated gateway runs; None when texts go to a real one.
        mounts_simulator: it runs in this process.
    """

    settings: Settings
    place: Place
    simulator_url: str | None
    mounts_simulator: bool
    sends: bool


def http_app(container: Container, *, simulator: ASGIApp | None = None) -> Litestar:
    """The REST door over a container's use cases."""
    settings = container.settings()
    return create_app(
        container.savannah(),
        options=HttpOptions(
            debug=settings.debug,
            issuer=container.place().public_url,
            allowed_hosts=settings.hosts,
            cors_origins=settings.cors_origins,
            trusted_proxies=settings.trusted_proxies,
            rate_limit=settings.rate_limit,
            rate_limit_auth=settings.rate_limit_auth,
            require_if_match=settings.require_if_match,
            request_timeout=settings.request_timeout,
            cursor_key=settings.derived_key("cursors"),
            callback_token=settings.callback_secret,
        ),
        limiter=container.limiter(),
        clock=container.clock(),
        metrics=container.metrics(),
        # Database and outbox are looked at anyway.
        checks={"redis": container.queue().ping} if settings.has_workers else {},
        simulator=simulator,
        queues=_board_of(container.queue()) if settings.has_workers else None,
        watch=container.watch(),
        tracing=container.tracing(),
    )


def _board_of(queue: SaqQueue) -> QueueBoard:
    from savannah.adapters.saq_queue.board import QueueBoard

    return QueueBoard(queue)


def _traced(container: Container, carrier: Carrier) -> Carrier:
    tracing = container.tracing()
    return carrier if tracing is None else tracing.carrier(carrier)


async def _serve_here(job: _Job, listener: socket.socket, ready: Callable[[], None]) -> None:
    settings = job.settings
    allow_files(settings.max_connections)
    async with contextlib.AsyncExitStack() as stack:
        container = await stack.enter_async_context(opened(settings, job.place, observed=True))
        mounted: ASGIApp | None = None
        if job.mounts_simulator:
            own = own_url(listener)
            simulator = Simulator(SimulatorSettings(callback_url=callback_root(settings, own)))
            stack.push_async_callback(simulator.aclose)
            mounted = simulator.app()
        elif job.simulator_url is not None:
            elsewhere = _Elsewhere(job.simulator_url)
            stack.push_async_callback(elsewhere.aclose)
            mounted = elsewhere
        await container.tokens().prepare()  # making keys is too slow for a request to wait for
        app = http_app(container, simulator=mounted)
        outbox: Outbox | None = None
        logouts: LogoutRelay | None = None
        if job.sends:
            outbox = Outbox(
                container.notifications(),
                container.queue(),
                _traced(container, container.queue()),
                clock=container.clock(),
                watch=container.metrics().relayed,
            )
            stack.push_async_callback(outbox.stop, grace=GRACE)
            logouts = LogoutRelay(container.identity().sessions, container.tokens())
            stack.push_async_callback(logouts.stop, grace=GRACE)

        if settings.wakes_by_database:
            from savannah.adapters.sql.wake import PostgresWakes

            wakes = PostgresWakes(settings.database_url)
            stack.push_async_callback(wakes.close)
            if job.sends:
                wakes.listen(container.queue().wake)
            else:
                container.queue().pass_on(wakes.tell)

        async def quiet() -> None:
            if outbox is not None and job.mounts_simulator:
                await outbox.stop(grace=GRACE)  # while its gateway, this very server, still answers

        limits = ClientLimits(
            patience=settings.client_timeout,
            connections=settings.max_connections,
            cut=container.metrics().client_cut,
        )
        server = Server(app, ready=ready, before_closing=quiet, limits=limits)
        with ended_by_signals(server.handle_exit):
            async with ended_with_parent(server):
                watch = container.watch()
                await watch.start()
                stack.push_async_callback(watch.stop)
                if outbox is not None:
                    await outbox.start()
                if logouts is not None:
                    await logouts.start()
                await server.serve([listener])
                await stack.aclose()


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    workers: int,
    sends: bool,
    announce: Callable[[str], None],
) -> None:
    """Serve until a signal comes; `announce` is told the address once requests are accepted.

    Raises:
        SettingsError, CannotStart; Unavailable when storage does not answer.
    """
    if settings.has_workers:
        log.info("Jobs go to `savannah worker` over Redis")
        sends = False
    elif sends and not settings.embedded:
        log.info("No job server is used: the outbox relay carries jobs in this process")
    settings = _ready_to(settings, sends=sends)
    with bind(host, port) as listener:
        own = own_url(listener)
        simulated = settings.gateway.base_url is None and settings.embedded
        gateway_url = f"{own}{MOUNT}" if simulated else settings.gateway.base_url
        job = _Job(
            settings=settings,
            place=Place(
                public_url=settings.public_url or own,
                gateway_url=gateway_url if sends else None,
            ),
            simulator_url=gateway_url if simulated else None,
            mounts_simulator=simulated,
            sends=sends,
        )
        ready = partial(announce, url_of(host, listener))
        if workers > 1:
            _serve_in_many(job, listener, workers, ready)
        else:
            run(_serve_here(job, listener, ready))


def _ready_to(settings: Settings, *, sends: bool) -> Settings:
    problems = settings.missing_extras() + (settings.sending_problems() if sends else [])
    if problems:
        raise SettingsError(problems)
    for remark in settings.remarks():
        log.warning(remark)
    return settings.prepared()


# --- a worker of its own -------------------------------------------------------------------------


def work(
    settings: Settings,
    *,
    concurrency: int,
    announce: Callable[[], None],
    metrics: tuple[str, int] | None = None,
) -> None:
    """Send texts until a signal comes: a relay, and a carrier of jobs on Redis.

    Args:
        concurrency: how many batches of messages may be under way at once.
        metrics: address and port of a page for Prometheus and of health checks.

    Raises:
        SettingsError, CannotStart; Unavailable when storage does not answer.
    """
    if not settings.has_workers:
        rule = "must be set, and DATABASE_URL be a server's; else `savannah serve` sends by itself"
        raise SettingsError([("REDIS_URL", rule)])
    settings = _ready_to(settings, sends=True)
    with contextlib.ExitStack() as stack:
        listener = None if metrics is None else stack.enter_context(bind(*metrics))
        run(_work_here(settings, concurrency, listener, announce))


async def _work_here(
    settings: Settings,
    concurrency: int,
    listener: socket.socket | None,
    announce: Callable[[], None],
) -> None:
    from savannah.adapters.saq_queue import SaqQueue, SaqWorker

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    place = Place(
        public_url=settings.public_url or "http://127.0.0.1:8000",
        gateway_url=settings.gateway.base_url,
    )

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        loop.call_soon_threadsafe(stopped.set)

    async with opened(settings, place, observed=True) as container:
        with ended_by_signals(stop):
            assert settings.redis_url is not None
            jobs = SaqQueue(settings.redis_url)
            outbox = Outbox(
                container.notifications(),
                container.queue(),
                _traced(container, SaqWorker(jobs, concurrency=concurrency)),
                clock=container.clock(),
                watch=container.metrics().relayed,
            )
            logouts = LogoutRelay(container.identity().sessions, container.tokens())
            watch = container.watch()
            try:
                await outbox.start()
                await logouts.start()
                await watch.start()
                async with _watched(container, listener):
                    announce()
                    await stopped.wait()
            finally:
                await watch.stop()
                await logouts.stop(grace=GRACE)
                await outbox.stop(grace=GRACE)
                await jobs.close()


@contextlib.asynccontextmanager
async def _watched(container: Container, listener: socket.socket | None) -> AsyncIterator[None]:
    """Serve the worker's figures and its health meanwhile, if there is a socket to do so on."""
    if listener is None:
        yield
        return
    ready = asyncio.Event()
    server = Server(worker_page(container), ready=ready.set)
    serving = asyncio.create_task(server.serve([listener]), name="savannah-worker-page")
    await ready.wait()
    log.info("figures and health", extra={"url": url_of(listener.getsockname()[0], listener)})
    try:
        yield
    finally:
        server.should_exit = True
        await serving


# --- the simulated gateway -----------------------------------------------------------------------


def simulate(
    settings: SimulatorSettings, *, host: str, port: int, announce: Callable[[str], None]
) -> None:
    """Run the simulated gateway alone until a signal comes. Raises: CannotStart."""
    with bind(host, port) as listener:
        ready = partial(announce, url_of(host, listener))
        run(_simulate_here(Simulator(settings).app(), listener, ready))


async def _simulate_here(app: ASGIApp, listener: socket.socket, ready: Callable[[], None]) -> None:
    server = Server(app, ready=ready)
    with ended_by_signals(server.handle_exit):
        async with ended_with_parent(server):
            await server.serve([listener])


def _under_mount(app: ASGIApp) -> ASGIApp:
    """The application below `/simulator`, as it looks where it is mounted."""

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].removeprefix(MOUNT) or "/"}
        await app(scope, receive, send)

    return mounted


class _Elsewhere:
    """Passes requests for the simulated gateway on to the process that runs it."""

    def __init__(self, url: str) -> None:
        self._root = url.removesuffix(MOUNT)
        self._client = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(70.0))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        path = scope["raw_path"].decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        answer = await self._client.request(
            scope["method"],
            f"{self._root}{path}" + (f"?{query}" if query else ""),
            content=body,
            headers=[(n, v) for n, v in scope["headers"] if n not in (b"host", b"connection")],
        )
        kept = (b"content-type", b"location", b"cache-control", b"content-security-policy")
        headers = [(name, value) for name, value in answer.headers.raw if name.lower() in kept]
        await send(
            {"type": "http.response.start", "status": answer.status_code, "headers": headers}
        )
        await send({"type": "http.response.body", "body": answer.content, "more_body": False})

    async def aclose(self) -> None:
        await self._client.aclose()


# --- several processes ---------------------------------------------------------------------------


def _serve_in_many(
    job: _Job, listener: socket.socket, workers: int, ready: Callable[[], None]
) -> None:
    """Several processes over one socket; the simulated gateway lives in one of its own."""
    settings = job.settings
    in_a_process(_prepare_storage, job)
    if settings.redis_url is None:
        log.warning("Several processes: each one counts rate limits and failed logins for itself")
    with (
        contextlib.ExitStack() as stack,
        metrics_folder() as metrics,
    ):
        _load(job)
        share_metrics_in(metrics)
        job = replace(job, place=replace(job.place, in_company=True))
        groups: list[list[Child]] = []
        if job.mounts_simulator:
            gateway = stack.enter_context(bind("127.0.0.1", 0))
            root = callback_root(settings, own_url(listener))
            url = f"{own_url(gateway)}{MOUNT}"
            place = replace(job.place, gateway_url=url if job.sends else None)
            job = replace(job, place=place, simulator_url=url, mounts_simulator=False)
            groups.append([Child("simulator", _simulator_process, settings, root, gateway)])
        names = (f"worker-{number}" for number in range(1, workers + 1))
        groups.append([Child(name, _worker_process, job, listener) for name in names])
        share_what_is_loaded()
        supervise(groups, ready)


def _prepare_storage(job: _Job) -> None:
    """Before there are several, so that one migrates and all fail in the same way."""

    async def prepare() -> None:
        place = Place(public_url=job.place.public_url)
        async with opened(job.settings, place) as container:
            await container.tokens().prepare()  # once, and not in each of them

    run(prepare())


def _load(job: _Job) -> None:
    """Load what the children will, so that it is in memory once: an application that serves nobody.

    It connects to nothing, and begins no thread.
    """
    for name in _LOADED_LATER:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    storage = SqlStorage.open(job.settings.database_url)
    http_app(assembled(job.settings, job.place, storage))


def _worker_process(job: _Job, listener: socket.socket, ready: Callable[[], None]) -> None:
    count_together(multiprocessing.current_process().name)
    logs.configure(level=job.settings.log_level, format_=job.settings.log_format)
    run(_serve_here(job, listener, ready))


def _simulator_process(
    settings: Settings, callbacks: str, listener: socket.socket, ready: Callable[[], None]
) -> None:
    logs.configure(level=settings.log_level, format_=settings.log_format)
    app = _under_mount(Simulator(SimulatorSettings(callback_url=callbacks)).app())
    run(_simulate_here(app, listener, ready))
