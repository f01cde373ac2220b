"""The playbook as its linter and its vault see it; `test_machine.py` runs it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import fresh_debian
import yaml

FOLDER: Final = fresh_debian.ROOT / "deploy/ansible"


def test_the_linter_passes_it_for_production(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("example")
    programs = fresh_debian.program("ansible-lint").parent
    fresh_debian.run(
        fresh_debian.program("ansible-lint"), "--config-file", ".ansible-lint.yml",
        cwd=FOLDER,
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "ANSIBLE_VAULT_PASSWORD_FILE": str(password),
            "ANSIBLE_HOME": str(tmp_path),
            "LC_ALL": "C.UTF-8",
        },
    )  # fmt: skip


def test_the_example_of_secrets_is_encrypted_and_says_that_it_is_one(tmp_path: Path) -> None:
    file = FOLDER / "vault.example.yml"
    assert file.read_text().startswith("$ANSIBLE_VAULT;1.1;AES256")
    password = tmp_path / "password"
    password.write_text("example")
    text = fresh_debian.run(
        fresh_debian.program("ansible-vault"), "view", "--vault-password-file", password, file,
        env={**os.environ, "PAGER": "cat", "ANSIBLE_HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert yaml.safe_load(text)["savannah_secrets_are_examples"] is True
