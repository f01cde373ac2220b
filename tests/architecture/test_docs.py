"""What README and docs print is what runs: Python blocks, links, settings and versions."""

from __future__ import annotations

import itertools
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from savannah.adapters.prometheus import PrometheusMetrics
from savannah.entrypoints.cli import parser
from savannah.entrypoints.django_import import Mappings
from savannah.entrypoints.http.problems import TITLES
from savannah.entrypoints.settings import known_variables, parse

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCED = re.MULTILINE | re.DOTALL
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", FENCED)
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


# A page shows Hypothesis as it is; how fast a busy machine draws is no matter of the page.
PATIENT = """\
import sys
if "hypothesis" in sys.argv[1]:
    from hypothesis import HealthCheck, settings
    settings.register_profile("docs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("docs")
exec(compile(sys.argv[1], "<page>", "exec"), {"__name__": "__main__"})
"""


@pytest.mark.parametrize("code", PYTHON_BLOCKS)
def test_a_python_block_of_the_docs_runs_as_it_is_printed(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PATIENT, code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def patched(folder: Path, patch: str) -> None:
    """Do there what `git apply` does with a patch of one file; not every machine has git."""
    file, *hunks = re.split(r"^(@@ .*@@)\n", patch, flags=re.MULTILINE)
    path = folder / re.fullmatch(r"--- a/(\S+)\n\+\+\+ b/\1\n", file)[1]
    source = path.read_text()
    for header, hunk in zip(hunks[::2], hunks[1::2], strict=True):
        lines = hunk.splitlines(keepends=True)
        old = [line[1:] for line in lines if line[0] in " -"]
        new = [line[1:] for line in lines if line[0] in " +"]
        counts = re.fullmatch(r"@@ -\d+,(\d+) \+\d+,(\d+) @@", header)
        assert counts, header
        assert (int(counts[1]), int(counts[2])) == (len(old), len(new)), header
        assert source.count("".join(old)) == 1, f"{path.name} has changed:\n{hunk}"
        source = source.replace("".join(old), "".join(new))
    path.write_text(source)


def test_the_rule_of_the_page_holds_once_its_patches_are_applied(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/add-a-rule.md").read_text()
    blocks = BLOCK.findall(page)
    (command,) = [code for language, code in blocks if language == "bash"]
    words = shlex.split(command)
    assert words[:3] == ["uv", "run", "pytest"]
    file = words[3]
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / file).parent.mkdir(parents=True)
    shutil.copy(ROOT / file, tmp_path / file)
    for module in (ROOT / "tests").glob("*.py"):
        shutil.copy(module, tmp_path / "tests")

    # What a copy does covers nothing of the original.
    unmeasured = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "--exitfirst", file],
            cwd=tmp_path,
            env=unmeasured | {"PYTHONPATH": str(tmp_path / "src")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    rule, tests = (code for language, code in blocks if language == "diff")
    patched(tmp_path, tests)
    without = run()
    assert without.returncode == 1, without.stdout
    assert "holidays" in without.stdout
    patched(tmp_path, rule)
    done = run()
    assert done.returncode == 0, done.stdout


def test_the_storage_of_the_page_is_put_through_the_suites_by_its_command(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/embed.md").read_text()
    blocks = BLOCK.findall(page)
    (adapter,) = [code for language, code in blocks if "def opened" in code]
    (command,) = [code for language, code in blocks if language == "bash"]
    words = shlex.split(command)
    assert words[:6] == ["uv", "run", "--group", "test", "pytest", "--storage"]
    file, _, name = words[6].rpartition(":")

    def run(code: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / file).write_text(code)
        given = ("--storage", f"{tmp_path / file}:{name}", "--exitfirst")
        suites = [str(path) for pattern in words[7:] for path in ROOT.glob(pattern)]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *given, *suites],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    done = run(adapter)
    assert done.returncode == 0, done.stdout
    broken = run(adapter.replace("reading=reading)", "reading=True)"))
    assert broken.returncode == 1, broken.stdout
    assert "reading only" in broken.stdout


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


def test_the_reference_pages_are_those_that_the_code_writes() -> None:
    written = runpy.run_path(str(ROOT / "docs/reference_pages.py"))["pages"]()
    for name, text in written.items():
        assert (ROOT / "docs/reference" / name).read_text() == text, "run: nox -s reference"


def test_the_index_of_decisions_names_each_with_its_title() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    for decision in sorted((ROOT / "docs/adr").glob("0*.md")):
        assert f"[{decision.name[:4]}]({decision.name})" in index


# Up to what the shell would not hand over; a quoted argument may have several lines.
COMMAND = re.compile(
    r"""(?:^|uv run |\$ |&& )savannah ((?:'[^']*'|"[^"]*"|[^#|>&;\n'"])*)""", re.MULTILINE
)
COMMANDS = [
    pytest.param(command, id=f"{page.relative_to(ROOT)}: {command}")
    for page in PAGES
    for language, block in BLOCK.findall(page.read_text())
    if language in {"bash", "console", "sh"}
    for command in COMMAND.findall(block.replace("\\\n", " "))
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_docs_is_one_that_the_command_line_takes(command: str) -> None:
    assert callable(parser().parse_args(shlex.split(command)).command)


# What stands in the sentences of a page, without the names of values.
INLINE = re.compile(r"`(?:uv run |sudo )?savannah ([a-z-][^`]*)`")
INLINE_COMMANDS = sorted(
    {
        (page.name, " ".join(command.split()))
        for page in PAGES
        for command in INLINE.findall(re.sub(r"^```.*?^```", "", page.read_text(), flags=FENCED))
    }
)


@pytest.mark.parametrize(("page", "command"), INLINE_COMMANDS)
def test_a_command_in_a_sentence_is_one_that_the_command_line_has(
    page: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    del page
    words = itertools.takewhile(re.compile("[a-z][a-z|-]*").fullmatch, command.split())
    for choice in itertools.product(*(word.split("|") for word in words)):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args([*choice, "--help"])
        assert ended.value.code == 0, capsys.readouterr().err
        shown = capsys.readouterr().out
        assert [flag for flag in re.findall(r"--[a-z-]+", command) if flag not in shown] == []


# The SDK of OpenTelemetry reads these.
FOREIGN = re.compile(r"OTEL_(SERVICE_NAME|TRACES_SAMPLER|EXPORTER_OTLP_HEADERS)")


def test_a_setting_in_a_sentence_is_one_that_is_read() -> None:
    known = {*known_variables(), "SAVANNAH_SUPERUSER_PASSWORD"}
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=FENCED)
        named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", text))
        assert {name for name in named - known if not FOREIGN.fullmatch(name)} == set(), page


def test_the_issuers_and_the_mapping_that_pages_print_are_understood(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs/how-to/trust-another-issuer.md").read_text())
    lists = [
        shlex.split(text)[0].partition("=")[2] if language == "bash" else text
        for language, text in blocks
    ]
    assert len(lists) == 3
    for printed in lists:
        assert parse({"OIDC_TRUSTED_ISSUERS": printed}).trusted_issuers
    page = (ROOT / "docs/how-to/move-from-django.md").read_text()
    (tmp_path / "mapping.toml").write_text(
        *(text for language, text in BLOCK.findall(page) if language == "toml")
    )
    assert Mappings.read(tmp_path / "mapping.toml").layouts["orders"]


def test_a_session_of_the_docs_is_one_that_nox_has() -> None:
    sessions = set(
        re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    )
    for page in PAGES:
        named = re.findall(r"nox -s ([a-z_]+)", page.read_text())
        assert set(named) <= sessions, page


def test_a_file_that_a_page_names_is_there() -> None:
    """In a sentence, or as an argument of a command."""
    for page in [*PAGES, ROOT / "tests/README.md"]:
        for path in re.findall(
            r"[` ]((?:src|tests|docs|deploy|benchmarks)/[\w./-]+)(?:`|::|[ \n])", page.read_text()
        ):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_a_setting_that_a_page_sets_is_one_that_is_read() -> None:
    known = {*known_variables(), "SAVANNAH_SUPERUSER_PASSWORD"}
    for page in PAGES:
        blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        named = {
            name
            for block in blocks
            for name in re.findall(r"^([A-Z][A-Z_]+)=", block, re.MULTILINE)
        }
        assert named <= known, page
