"""What README and docs print is what runs: Python blocks, links, settings and versions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from savannah.adapters.prometheus import PrometheusMetrics
from savannah.entrypoints.http.problems import TITLES
from savannah.entrypoints.settings import known_variables

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(#[^)]*)?\)")

PYTHON_BLOCKS = [
    pytest.param(
        code, id=f"{page.relative_to(ROOT)}:{page.read_text()[: match.start()].count(chr(10)) + 1}"
    )
    for page in PAGES
    for match in BLOCK.finditer(page.read_text())
    for language, code in [match.groups()]
    if language == "python"
]


@pytest.mark.parametrize("code", PYTHON_BLOCKS)
def test_a_python_block_of_the_docs_runs_as_it_is_printed(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_ten_lines_of_the_readme_text_jane(tmp_path: Path) -> None:
    code = next(
        code
        for language, code in BLOCK.findall((ROOT / "README.md").read_text())
        if language == "python"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("+254700123456 ")
    assert "Laptop Computer" in done.stdout
    assert "KES 999.99" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    broken = [
        target
        for target, _ in LINK.findall(page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_pins_and_the_hashed_lock_name_the_same_versions() -> None:
    pins = dict(
        re.findall(
            r'^  "([a-z0-9._-]+)==([^"]+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
        )
    )
    locked = dict(
        re.findall(
            r"^([a-z0-9._-]+)==([^ ;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
        )
    )
    assert locked
    assert {name: pins.get(name) for name in locked} == locked


def test_no_file_records_where_packages_were_downloaded_from() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--hash=sha256:" in lock


def test_the_settings_page_and_the_example_file_name_every_variable() -> None:
    known = {*known_variables(), "SAVANNAH_SUPERUSER_PASSWORD"}
    page = (ROOT / "docs/reference/settings.md").read_text()
    example = (ROOT / ".env.example").read_text()
    named = set(re.findall(r"`([A-Z][A-Z0-9_]{4,})`", page))
    assert named == known
    assert {
        name for name in known if not re.search(rf"^#? ?{name}=", example, re.MULTILINE)
    } == set()


def test_the_errors_page_names_every_problem_code() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text()
    assert set(re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE)) == set(TITLES)


OWASP = ROOT / "docs/explanation/owasp-api-2023.md"


def test_every_risk_of_the_owasp_page_names_tests_that_exist() -> None:
    rows = re.findall(r"^\| (API\d+) .*$", OWASP.read_text(), re.MULTILINE)
    assert rows == [f"API{number}" for number in range(1, 11)]
    for line in OWASP.read_text().splitlines():
        if not line.startswith("| API"):
            continue
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line)
        assert named, line[:40]
        for file, test in named:
            source = (ROOT / file).read_text()
            assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), f"{file}::{test}"


def test_the_metrics_page_names_every_metric() -> None:
    metrics = PrometheusMetrics(CollectorRegistry())
    metrics.relayed(0, None)
    metrics.redis(0)
    shown = {
        name.removesuffix("_created")
        for name in re.findall(r"^# TYPE (\w+)", metrics.render().decode(), re.MULTILINE)
        if not name.endswith("_created")
    }
    page = (ROOT / "docs/reference/metrics.md").read_text()
    table = page[: page.index("## Log fields")]
    assert set(re.findall(r"`((?:savannah|process)_\w+)`", table)) == shown
