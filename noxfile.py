"""The one runner: `uv run nox -s <session>`; CI runs these and nothing else.

Sessions run in the environment that `uv run` has made, so nothing is installed twice.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "uv|virtualenv"


def tools(session: nox.Session) -> None:
    """Bring the tools of the checks into the environment that `uv run` has made."""
    session.run("uv", "sync", "--quiet", "--group", "test", external=True)


def deployment_tools(session: nox.Session) -> None:
    """The same, with what reads the files of a deployment."""
    session.run("uv", "sync", "--quiet", "--group", "test", "--group", "deploy", external=True)


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    """Style and import rules."""
    tools(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session(python=False)
def types(session: nox.Session) -> None:
    """Strict types, and the public names as a user's program sees them."""
    tools(session)
    session.run("mypy")
    session.run("mypy", "tests/typing_public_api.py")


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """The whole test suite with branch coverage; arguments go to pytest."""
    tools(session)
    env = {"COVERAGE_CORE": "ctrace", "PYTHONUNBUFFERED": "1"}
    session.run("coverage", "erase")
    shared = ("-n", "2", "--dist", "worksteal")
    session.run("coverage", "run", "-m", "pytest", *shared, *session.posargs, env=env)
    session.run("coverage", "combine", "--quiet")
    if not session.posargs:
        session.run("coverage", "report", "--fail-under=90", "--format=total")
        inner = "src/savannah/domain/*,src/savannah/application/*"
        session.run("coverage", "report", f"--include={inner}", "--fail-under=100")


@nox.session(python=False)
def coverage(session: nox.Session) -> None:
    """Where the last test run did not go."""
    session.run("coverage", "report")


@nox.session
def embedding(session: nox.Session) -> None:
    """The wheel without any extra, in an empty environment: the ten lines must run."""
    session.run(
        "uv", "build", "--wheel", "--quiet", "--out-dir", session.create_tmp(), external=True
    )
    wheel = next(Path(session.create_tmp()).glob("*.whl"))
    session.run_install("uv", "pip", "install", "--quiet", str(wheel), external=True)
    session.run("python", "tests/architecture/embedded_program.py")


@nox.session(python=False)
def bench(session: nox.Session) -> None:
    """Figures of this machine, as ratios within one run."""
    tools(session)
    session.run("python", "benchmarks/light.py")
    session.run("python", "benchmarks/rest.py", *session.posargs)
    session.run("python", "benchmarks/messages.py")
    session.run("python", "benchmarks/processes.py")
    session.run("python", "benchmarks/scale.py")
    session.run("python", "benchmarks/sizes.py")


@nox.session(python=False)
def chaos(session: nox.Session) -> None:
    """Five minutes of load while production parts are killed: `-- --seconds N --seed N`."""
    tools(session)
    session.run("python", "benchmarks/chaos.py", *session.posargs)


@nox.session(python=False)
def pgbouncer(session: nox.Session) -> None:
    """Storage through a real PgBouncer in transaction mode: `apt-get install pgbouncer` first."""
    tools(session)
    suites = sorted(str(path) for path in Path("tests/contract").glob("test_storage_*.py"))
    session.run("pytest", "--pooler", "tests/pooler", *suites, *session.posargs)


@nox.session(python=False)
def interop(session: nox.Session) -> None:
    """Clients and issuers that others wrote, against the real server; needs Node.js 20 and npm."""
    session.run("uv", "sync", "--quiet", "--group", "test", "--group", "interop", external=True)
    if shutil.which("node") is None or shutil.which("npm") is None:
        session.error("install Node.js 20.19 or newer with npm: apt-get install nodejs npm")
    # No scripts of the packages: none of these needs one.
    install = ("npm", "ci", "--prefix", "tests/interop", "--ignore-scripts", "--silent")
    session.run(*install, external=True)
    session.run("pytest", "tests/interop", *session.posargs)


@nox.session(python=False)
def deploy(session: nox.Session) -> None:
    """What is in `deploy/` and `.github/`, by the tools that read it; needs nginx and promtool."""
    deployment_tools(session)
    # A file each: what they start is shared by a file.
    shared = ("-n", "2", "--dist", "loadfile")
    session.run("pytest", "tests/deploy", "-m", "not machine", *shared, *session.posargs)


@nox.session(python=False)
def image(session: nox.Session) -> None:
    """Build the Containerfile and run it; needs root, buildah, podman and mmdebstrap."""
    deployment_tools(session)
    session.run("pytest", "tests/deploy/test_image.py", *session.posargs)


@nox.session(python=False)
def machine(session: nox.Session) -> None:
    """Boot a Debian and run the playbook on it, twice; needs root, systemd-nspawn, mmdebstrap."""
    deployment_tools(session)
    session.run("pytest", "tests/deploy/test_machine.py", *session.posargs)


@nox.session(python=False)
def sbom(session: nox.Session) -> None:
    """Write what the server is made of to `dist/sbom.cdx.json`, in CycloneDX; needs no network."""
    deployment_tools(session)
    output = session.posargs[0] if session.posargs else "dist/sbom.cdx.json"
    (ROOT / output).parent.mkdir(parents=True, exist_ok=True)
    session.run(
        "cyclonedx-py", "requirements", "requirements.lock", "--pyproject", "pyproject.toml",
        "--mc-type", "application", "--output-reproducible", "--validate",
        "--output-format", "JSON", "--output-file", output,
    )  # fmt: skip


@nox.session(python=False)
def audit(session: nox.Session) -> None:
    """Ask for known weaknesses of the locked versions; needs the network."""
    deployment_tools(session)
    session.run(
        "pip-audit", "--requirement", "requirements.lock", "--require-hashes", "--disable-pip",
        "--strict", "--progress-spinner", "off", *session.posargs,
    )  # fmt: skip


@nox.session(python=False)
def docs(session: nox.Session) -> None:
    """The pages below `docs/` as HTML in `dist/docs`; a broken link is an error."""
    session.run("uv", "sync", "--quiet", "--group", "test", "--group", "docs", external=True)
    strict = ("--quiet", "--fail-on-warning", "--keep-going", "--fresh-env")
    cache = ("--doctree-dir", "dist/docs-cache")
    session.run("sphinx-build", *strict, *cache, "docs", "dist/docs", *session.posargs)


@nox.session(python=False)
def reference(session: nox.Session) -> None:
    """Write the reference pages that are made from the code."""
    tools(session)
    session.run("python", "docs/reference_pages.py")


@nox.session(python=False)
def lock(session: nox.Session) -> None:
    """Take the newest versions: the pins in pyproject.toml and the hashed requirements.lock."""
    project = ROOT / "pyproject.toml"
    pins = re.compile(r"(?<=^constraint-dependencies = \[\n)[^\]]*(?=^\])", re.MULTILINE)
    if "--upgrade" in session.posargs:
        project.write_text(pins.sub("", project.read_text()))
        session.run("uv", "lock", "--upgrade", "--quiet", external=True)
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    lines = [
        f'  "{each["name"]}=={each["version"]}",\n'
        for each in packages
        if "editable" not in each["source"]
    ]
    project.write_text(pins.sub("".join(lines), project.read_text(), count=1))
    session.run(
        "uv", "export", "--quiet", "--no-header", "--no-annotate", "--no-emit-project", "--no-dev",
        "--extra", "server", "--extra", "otel", "--extra", "sentry",
        "--output-file", "requirements.lock", external=True,
    )  # fmt: skip
    session.run(
        "uv", "export", "--quiet", "--no-header", "--no-annotate", "--only-group", "build",
        "--output-file", "deploy/requirements-build.lock", external=True,
    )  # fmt: skip
