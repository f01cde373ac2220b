"""Figures of several processes of one server: counted together, and never left behind."""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import values

from savannah.adapters.prometheus import PrometheusMetrics, count_together
from savannah.entrypoints.settings import share_metrics_in
from savannah.entrypoints.shared_metrics import SharedRegistry, metrics_folder

Start = Callable[[str], PrometheusMetrics]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """What a process of that name counts with; this one plays them, one after the other."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # so that it is put back
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    share_metrics_in(str(tmp_path))

    def start(name: str) -> PrometheusMetrics:
        monkeypatch.setattr(multiprocessing.current_process(), "name", name)
        count_together(name)
        return PrometheusMetrics(SharedRegistry())

    return start


def shown(metrics: PrometheusMetrics, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", metrics.render().decode(), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def test_a_process_counts_on_where_the_one_of_its_name_has_ended(
    start: Start, tmp_path: Path
) -> None:
    for name in ("worker-2", "worker-1"):
        metrics = start(name)
        metrics.order_created()
        metrics.request("GET", "/", 200, 0.1)
    files = {file.name for file in tmp_path.iterdir()}
    for number in range(3):
        again = start("worker-1")
        again.order_created()
        again.request("GET", "/", 200, 0.1)
        assert shown(again, "savannah_orders_created_total") == 3 + number
        assert {file.name for file in tmp_path.iterdir()} == files
    answered = r'savannah_http_requests_total\{method="GET",route="/",status="200"\}'
    assert shown(metrics, answered) == 5


def test_what_is_level_of_a_process_that_is_gone_counts_no_more(
    start: Start, tmp_path: Path
) -> None:
    gone, here = start("worker-1"), start("worker-2")
    for metrics, in_use in ((gone, 3), (here, 4)):
        metrics.order_created()
        metrics.connections(in_use, 10)
    assert shown(here, "savannah_database_connections_in_use") == 7
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "process_worker-1").write_text(str(ended.pid))
    assert shown(here, "savannah_database_connections_in_use") == 4
    assert shown(here, "savannah_orders_created_total") == 2
    start("worker-1").connections(1, 10)  # it is back
    assert shown(here, "savannah_database_connections_in_use") == 5


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_ends_with_its_server_and_leaves_those_of_others_alone(temporary: Path) -> None:
    with metrics_folder() as one:
        with metrics_folder() as other:
            Path(other, "counter_worker-1.db").touch()
            assert {*temporary.iterdir()} == {Path(one), Path(other)}
        assert {*temporary.iterdir()} == {Path(one)}
    assert not [*temporary.iterdir()]


def test_a_folder_that_a_killed_server_has_left_behind_goes_when_the_next_one_starts(
    temporary: Path,
) -> None:
    left = Path(tempfile.mkdtemp(prefix="savannah-metrics-"))
    (left / "counter_worker-1.db").touch()
    elsewhere = temporary / "elsewhere"
    (elsewhere / "kept").mkdir(parents=True)
    link = temporary / "savannah-metrics-link"
    link.symlink_to(elsewhere)
    with metrics_folder() as folder:
        assert {*temporary.iterdir()} == {Path(folder), elsewhere, link}
        assert (elsewhere / "kept").exists()
