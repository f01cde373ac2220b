"""The workflows and Dependabot's file: valid, least in rights, and pinned."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import fresh_debian
import pytest
import yaml

FOLDER: Final = fresh_debian.ROOT / ".github"
WORKFLOWS: Final = sorted((FOLDER / "workflows").glob("*.yml"))
each_workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: str(file.stem))


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    return found


def test_workflows_and_dependabot_are_valid() -> None:
    check = fresh_debian.program("check-jsonschema")
    fresh_debian.run(check, "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    fresh_debian.run(check, "--builtin-schema", "vendor.dependabot", FOLDER / "dependabot.yml")


def test_actionlint_has_nothing_to_say() -> None:
    fresh_debian.run(fresh_debian.program("actionlint"), "-shellcheck=", "-pyflakes=", *WORKFLOWS)


@each_workflow
def test_a_workflow_may_only_read_and_has_an_end(file: Path) -> None:
    workflow = read(file)
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    assert all(job["timeout-minutes"] <= 45 for job in workflow["jobs"].values())


@each_workflow
def test_every_action_is_pinned_to_a_commit_and_says_its_version(file: Path) -> None:
    """A tag can be moved to other code; the version is for readers and for Dependabot."""
    used = re.findall(r"uses: (.+)", file.read_text())
    assert used
    pinned = r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+"
    assert [each for each in used if not re.fullmatch(pinned, each)] == []


def test_an_action_has_one_version_everywhere() -> None:
    used = {each for file in WORKFLOWS for each in re.findall(r"uses: (.+)", file.read_text())}
    assert len(used) == len({each.partition("@")[0] for each in used})


def test_a_release_is_the_image_that_the_chart_asks_for(tmp_path: Path) -> None:
    """By the version of the package, which the release holds to the tag; under a name in small
    letters, whoever owns the repository.
    """
    (job,) = read(FOLDER / "workflows/release.yml")["jobs"].values()
    project = tomllib.loads((fresh_debian.ROOT / "pyproject.toml").read_text())["project"]
    chart = read(fresh_debian.ROOT / "deploy/helm/savannah-microservice/Chart.yaml")
    naming = next(step["run"] for step in job["steps"] if step.get("name") == "Name the image")
    given = {
        "GITHUB_REF_NAME": f"v{project['version']}",
        "GITHUB_REPOSITORY": "Acme/Savannah",
        "GITHUB_ENV": str(tmp_path / "env"),
    }
    subprocess.run(["bash", "-c", naming], check=True, env=given)
    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    (push,) = (step["with"] for step in job["steps"] if step.get("with", {}).get("push"))
    filled = re.sub(r"\$\{\{ env\.(\w+) \}\}", lambda found: env[found[1]], push["tags"])
    assert filled == f"ghcr.io/acme/savannah:{chart['appVersion']}"


def sessions(file: Path) -> set[str]:
    """The sessions of nox that a workflow or a script runs."""
    lines = re.findall(r"nox -s ([\w ]+)", file.read_text())
    return {name for line in lines for name in line.split()}


@each_workflow
def test_a_workflow_runs_sessions_that_there_are(file: Path) -> None:
    noxfile = (fresh_debian.ROOT / "noxfile.py").read_text()
    assert sessions(file) <= set(re.findall(r"^@nox\.session.*\ndef (\w+)", noxfile, re.MULTILINE))


def test_every_change_is_checked_by_all_that_the_script_runs() -> None:
    script = sessions(fresh_debian.ROOT / ".ci/run")
    assert len(script) > 5
    assert script <= sessions(FOLDER / "workflows/ci.yml")


def test_tests_run_on_every_python_that_is_promised() -> None:
    job = read(FOLDER / "workflows/ci.yml")["jobs"]["tests"]
    versions = job["strategy"]["matrix"]["python"]
    project = (fresh_debian.ROOT / "pyproject.toml").read_text()
    assert versions == re.findall(r'Python :: (3\.\d+)"', project)
    # uv would take any Python that is new enough.
    assert job["steps"][-1]["env"] == {"UV_PYTHON": "${{ matrix.python }}"}
