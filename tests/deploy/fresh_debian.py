"""A fresh Debian for tests that need a whole machine: its root, and the wheels to put into it.

Made once with Debian's `mmdebstrap` and kept below `.nox`, so that a second run starts at once.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".nox" / "debian"
SUITE: Final = "bookworm"
PYTHON: Final = "3.11"  # of that suite
# What a host's installer leaves behind, and Python as the playbook and the image want it.
_PACKAGES: Final = (
    "systemd,systemd-sysv,dbus,ca-certificates,openssl,python3,python3-apt,python3-venv,sudo"
)
# Waiting in the package cache, since the machine has no network; installing them is Ansible's part.
_DOWNLOAD: Final = "apt-get install --yes --quiet --download-only --no-install-recommends"
_TO_BE_INSTALLED: Final = "postgresql redis-server nginx-light"


class ToolMissing(Exception):
    """A program cannot be found; the message says what to install."""


def tool(name: str, *, package: str) -> str:
    """The path of a program of Debian. Raises: ToolMissing."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise ToolMissing(f"This check runs {name} and found none: apt-get install {package}")
    return found


def program(name: str) -> Path:
    """A program that a Python package of this environment brings."""
    return Path(sys.executable).parent / name


def run(*command: str | Path, **options: object) -> str:
    """What a command says; its complaint is in the error when it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    if done.returncode != 0:
        shown = " ".join(map(str, command))
        raise AssertionError(f"{shown}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return str(done.stdout)


def need_root() -> None:
    """Say what to do instead of failing in the middle."""
    if os.geteuid() != 0:
        raise ToolMissing("This check starts a machine of its own: run it as root, on Linux")


def root_archive() -> Path:
    """A tar of a Debian root with Python and systemd, package lists and packages to install."""
    mmdebstrap = tool("mmdebstrap", package="mmdebstrap")
    options = [
        "--variant=minbase",
        f"--include={_PACKAGES}",
        "--skip=cleanup/apt",
        f"--customize-hook=chroot $1 {_DOWNLOAD} {_TO_BE_INSTALLED}",
    ]  # fmt: skip
    key = hashlib.sha256(" ".join([SUITE, *options]).encode()).hexdigest()[:12]
    archive = CACHE / f"{SUITE}-{key}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        draft = archive.with_suffix(".part.tar")
        with scratch() as folder:
            environment = {**os.environ, "TMPDIR": str(folder)}
            run(mmdebstrap, *options, SUITE, draft, *_mirror(), env=environment)
        draft.rename(archive)
    return archive


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for whole machines, in memory where there is enough: disks are slow at that."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 3 * 1024**3
    folder = tempfile.mkdtemp(prefix="savannah-", dir=memory if roomy else None)
    try:
        yield Path(folder)
    finally:
        run("rm", "--recursive", "--force", "--one-file-system", folder)


def unpack(folder: Path, *, without: Sequence[str] = ()) -> None:
    """Lay a Debian root there, without some of its folders."""
    leaving = [f"--exclude={each}" for each in without]
    run("tar", "--extract", "--numeric-owner", *leaving, "--file", root_archive(), "-C", folder)


def _mirror() -> Sequence[str]:
    """The one this machine installs from, if it is a Debian."""
    apt_get = shutil.which("apt-get")
    if apt_get is None:
        return ()
    targets = run(apt_get, "indextargets", "--format", "$(REPO_URI) $(SUITE)$(CODENAME)")
    found = [
        line.split()[0] for line in targets.splitlines() if re.search(rf"{SUITE}|stable$", line)
    ]
    mirrors = [uri for uri in found if uri.rstrip("/").endswith("/debian")]
    return [f"deb {mirrors[0]} {SUITE} main"] if mirrors else ()


def wheels() -> Path:
    """A folder with the wheels of both lock files, for the Python of that Debian."""
    locks = [ROOT / "requirements.lock", ROOT / "deploy/requirements-build.lock"]
    text = "".join(lock.read_text() for lock in locks)
    folder = CACHE / f"wheels-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not folder.exists():
        draft = folder.with_suffix(".part")
        draft.mkdir(parents=True, exist_ok=True)
        # Markers are about the Python that runs pip, and this is not the one that gets them.
        everything = draft / "requirements.txt"
        everything.write_text(re.sub(r" ; [^\\\n]*", " ", text))
        run(
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
            "--only-binary", ":all:", "--python-version", PYTHON, "--dest", draft,
            "--requirement", everything,
        )  # fmt: skip
        everything.unlink()
        draft.rename(folder)
    return folder
