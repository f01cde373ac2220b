"""What several processes of one server count together, in the files of one folder.

A process counts on where the former one of its name has ended, so there are as many files as names,
however often one dies.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from savannah.entrypoints.settings import shared_metrics

_PREFIX: Final = "savannah-metrics-"


class SharedRegistry(CollectorRegistry):
    """Gives out what all processes of one server have counted, whichever of them is asked.

    CPU, memory and open files are each process's own, under its name: `process="worker-1"`.
    """

    _MARK: Final = "process_"

    def __init__(self) -> None:
        super().__init__()
        self._folder = shared_metrics()
        name = multiprocessing.current_process().name
        draft = self._folder / f"draft_{name}"
        draft.write_text(str(os.getpid()), encoding="ascii")
        draft.rename(self._folder / f"{self._MARK}{name}")  # whole, or not at all

    def register(self, collector: Collector) -> None:
        """Nothing is kept here: values tell by themselves, through files."""

    def collect(self) -> Iterator[Metric]:
        processes = {
            mark.name.removeprefix(self._MARK): mark.read_text(encoding="ascii")
            for mark in sorted(self._folder.glob(f"{self._MARK}*"))
        }
        # A process that was killed cannot take its levels out of the sums itself.
        dead = tuple(f"_{name}.db" for name, pid in processes.items() if not _is_running(int(pid)))
        files = [
            str(file)
            for file in self._folder.glob("*.db")
            if not (file.name.startswith("gauge_live") and file.name.endswith(dead))
        ]
        yield from MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]  # it has no types
        yield from _resources(processes)


def _resources(processes: dict[str, str]) -> Iterable[Metric]:
    families: dict[str, Metric] = {}
    for name, pid in processes.items():
        own = CollectorRegistry()
        ProcessCollector(pid=lambda pid=pid: pid, registry=own)  # type: ignore[misc]  # bound now
        for found in own.collect():
            family = families.setdefault(
                found.name, Metric(found.name, found.documentation, found.type)
            )
            for sample in found.samples:
                family.add_sample(sample.name, {"process": name}, sample.value)
    return families.values()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def metrics_folder() -> Iterator[str]:
    """A folder for the files of one server, which ends with it.

    Those that servers which were killed have left behind go first.
    """
    _remove_orphans()
    folder, lock = _made()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _made() -> tuple[str, int | None]:
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX)
        with suppress(BlockingIOError, FileNotFoundError):
            lock = _locked(folder)
            if Path(folder).exists():
                return folder, lock
        # Another server that starts has just taken it for one left behind.


def _remove_orphans() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is in use, or gone, or somebody else's
            lock = _locked(folder)
            if lock is not None:
                if os.fstat(lock).st_uid == os.getuid():
                    shutil.rmtree(folder)
                os.close(lock)


def _locked(folder: str | Path) -> int | None:
    """An open file that locks it, held by all who are forked from here; None where none can.

    Raises:
        BlockingIOError: somebody has locked it; other OSError: it cannot be opened.
    """
    try:
        import fcntl
    except ImportError:  # there is none for Windows
        return None
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    except OSError:  # a file system without locks
        os.close(lock)
        return None
    return lock
