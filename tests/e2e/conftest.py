"""Real processes for the tests of this folder: started as a user starts them, and always ended."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from savannah.entrypoints.settings import environment_for_child

# On a busy machine; what is waited for takes a fraction of it.
PATIENCE_S = 120.0
# Likewise, and less than the minute of a lease, which makes good what a test shows the lack of.
SOON_S = 45.0
SKEWED = Path(__file__).parents[1] / "skewed.py"


class Running:
    """A process that said it is ready: its address, and a client for it."""

    def __init__(
        self,
        folder: Path,
        arguments: tuple[str, ...],
        environment: dict[str, str],
        program: tuple[str, ...],
    ) -> None:
        self.folder = folder
        self.log = folder / "stderr.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        late = threading.Timer(PATIENCE_S, self.process.kill)
        late.start()
        self.line = self.process.stdout.readline()
        late.cancel()
        assert self.line, f"it did not start:\n{self.log.read_text()[-3000:]}"
        self.url = self.line.rpartition(" ")[2].strip()
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S, trust_env=False)

    def terminate(self) -> int:
        """Ask it to end; its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.end()

    def end(self) -> None:
        """Make sure that it has ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.client.close()


class Processes:
    """Starts processes in one folder."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self._cache = cache
        self._running: list[Running] = []

    def environment(self, settings: dict[str, str]) -> dict[str, str]:
        environment = environment_for_child(LOG_FORMAT="json", **settings)
        if environment.pop(
            "PYTHONDONTWRITEBYTECODE", None
        ):  # starting would take three times as long
            environment["PYTHONPYCACHEPREFIX"] = str(self._cache)
        return environment

    def start(
        self, *arguments: str, program: tuple[str, ...] = ("-m", "savannah"), **settings: str
    ) -> Running:
        running = Running(self.folder, arguments, self.environment(settings), program)
        self._running.append(running)
        return running

    def start_skewed(self, clock: Path, *arguments: str, **settings: str) -> Running:
        """Start it where the clock is wrong by what that file says."""
        return self.start(*arguments, program=(str(SKEWED), str(clock)), **settings)

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "savannah", *arguments],
            cwd=self.folder,
            env=self.environment(settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def end(self) -> None:
        for running in self._running:
            running.end()


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all test processes, so that each module is compiled once."""
    folder = tmp_path_factory.getbasetemp().parent / "bytecode"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def processes(tmp_path: Path, bytecode: Path) -> Iterator[Processes]:
    """Processes in an empty folder."""
    started = Processes(tmp_path, bytecode)
    yield started
    started.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, bytecode: Path) -> Iterator[Processes]:
    """Processes in a folder that the tests of a module share."""
    started = Processes(tmp_path_factory.mktemp("desk"), bytecode)
    yield started
    started.end()


@pytest.fixture
def until() -> Callable[..., object]:
    """Look again and again until what is seen is true, and give that."""

    def look(see: Callable[[], object], *, within_s: float = SOON_S) -> object:
        import time

        deadline = time.monotonic() + within_s
        while not (seen := see()):
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.05)
        return seen

    return look
