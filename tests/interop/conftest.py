"""The real server, and around it programs of other people: apps, issuers, a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

# One way to start the program, for this folder and for that one.
from e2e.conftest import Processes, bytecode, shared, until  # noqa: F401
from interop.outsiders import HERE, Browser, Desk, Issuer, Program, Receiver

NODE_LEAST = (20, 19)


@pytest.fixture(scope="session")
def node() -> str:
    """The Node.js program; where there is none, a failure that says what to install."""
    found = shutil.which("node")
    if found is None:
        pytest.fail("Node.js is missing: apt-get install nodejs npm")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(int(part) for part in re.findall(r"\d+", said)[:2]) < NODE_LEAST:
        pytest.fail(f"Node.js {said.strip()} is too old: 20.19 or newer is needed")
    if not (HERE / "node_modules").is_dir():
        pytest.fail("the packages are missing: npm ci --prefix tests/interop")
    return found


@pytest.fixture(scope="module")
def desk(shared: Processes) -> Desk:  # noqa: F811
    """A server for all tests of a module, with one person."""
    # As many logins come from one address here as otherwise from many.
    running = shared.start("serve", "--port", "0", RATE_LIMIT="off", RATE_LIMIT_AUTH="off")
    started = Desk(shared, running)
    started.register("johndoe")
    return started


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A browser that nobody has used yet."""
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    listening = Receiver()
    yield listening
    listening.close()


@pytest.fixture(scope="module")
def openid_client(node: str) -> Iterator[Program]:
    """openid-client in a process of its own."""
    program = Program(node, "openid_client.mjs")
    yield program
    program.end()


@pytest.fixture(scope="module")
def issuer_of(node: str) -> Iterator[Callable[[str], Issuer]]:
    started: list[Issuer] = []

    def begin(kind: str) -> Issuer:
        started.append(Issuer(node, kind))
        return started[-1]

    yield begin
    for issuer in started:
        issuer.end()
