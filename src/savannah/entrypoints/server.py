"""What a server process runs on: its socket, its event loop, and an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, Final

import uvicorn
from litestar.types import ASGIApp

from savannah.entrypoints.slow_clients import ClientLimits, patient, sweep
from savannah.entrypoints.supervisor import CannotStart

GRACE: Final = timedelta(seconds=10)
# Longer than clients and proxies keep an idle connection, so that it is they who close it: a
# request on a connection that we close at that moment is lost, and a text then unknown.
_KEEP_ALIVE_S: Final = 75
_OTHER_FILES: Final = 256  # besides connections of clients
_PARENT_EVERY_S: Final = 0.5
# Of new objects, and of collections of each younger generation.
_COLLECT_AFTER: Final = (20_000, 20, 20)


def bind(host: str, port: int) -> socket.socket:
    """A socket on that address, which refuses connections until a server listens on it.

    Raises:
        CannotStart: the address is taken, or is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CannotStart(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def url_of(host: str, listener: socket.socket) -> str:
    """The socket's address under that name of the machine."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"


def own_url(listener: socket.socket) -> str:
    """How this machine itself reaches the socket."""
    address = listener.getsockname()[0]
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104  as bound
    return url_of(reached, listener)


class Server(uvicorn.Server):
    """Says when it is ready, and ends when told to instead of dying of the signal."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        ready: Callable[[], None],
        before_closing: Callable[[], Awaitable[None]] | None = None,
        limits: ClientLimits | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools" if limits is None else patient(limits),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(GRACE.total_seconds()),
            )
        )
        self._ready = ready
        self._before_closing = before_closing
        self._limits = limits
        self._sweep: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit:
            # What the start has made stays, so the garbage collector need not walk through it
            # again; nearly all that a request makes is gone without it.
            gc.freeze()
            gc.set_threshold(*_COLLECT_AFTER)
            if self._limits is not None:
                watched = sweep(self.server_state.connections, self._limits.patience)
                self._sweep = asyncio.create_task(watched, name="savannah-slow-clients")
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._before_closing is not None:
            await self._before_closing()
        await super().shutdown(sockets)
        if self._sweep is not None:
            self._sweep.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are caught around the whole process, see `ended_by_signals`."""
        yield


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it on a loop of its own, the fast one where there is one."""
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


@contextlib.asynccontextmanager
async def ended_with_parent(server: uvicorn.Server) -> AsyncIterator[None]:
    """Stop also when the supervisor is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is None:
        yield
        return

    async def watch() -> None:
        # The pipe that would tell is also open in brothers, who were forked later.
        while os.getppid() == parent.pid:  # noqa: ASYNC110  there is nothing to wait for
            await asyncio.sleep(_PARENT_EVERY_S)
        server.should_exit = True

    watching = asyncio.create_task(watch(), name="savannah-parent")
    try:
        yield
    finally:
        watching.cancel()


def allow_files(connections: int) -> None:
    """Raise the limit on open files to what that many connections need, as far as one may."""
    try:
        import resource
    except ImportError:  # there is none on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
