"""What can be said of the Containerfile by reading it; `test_image.py` builds and runs it."""

from __future__ import annotations

import re
from typing import Final

import fresh_debian

FILE: Final = fresh_debian.ROOT / "Containerfile"


def test_the_linter_has_nothing_to_say() -> None:
    said = fresh_debian.run(fresh_debian.program("hadolint"), "--failure-threshold", "style", FILE)
    assert said == ""


def test_every_package_is_installed_by_hash_or_was_built_here() -> None:
    commands = FILE.read_text().replace("\\\n", " ")
    installs = re.findall(r"pip (?:--python \S+ )?install ([^&\n]*)", commands)
    assert len(installs) == 3
    assert all("--require-hashes" in each or "--no-index" in each for each in installs)


def test_what_the_file_copies_is_not_ignored() -> None:
    allowed = {
        line.removeprefix("!")
        for line in (fresh_debian.ROOT / ".containerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", FILE.read_text(), re.MULTILINE)
        for source in sources.split()
    }
    assert copied == allowed
