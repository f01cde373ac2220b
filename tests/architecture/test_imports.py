"""What importing Savannah brings with it, and that the public names are the ones announced."""

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import savannah
from savannah import __all__ as public_names

SOURCE = Path(savannah.__file__)
# Distributions that the base install may load; all others are strangers to it.
ALLOWED = {"savannah", "phonenumberslite", "tzdata"}

THE_TEN_LINES = """
import asyncio
from savannah import Caller, MemoryGateway, in_memory

async def main() -> None:
    gateway, till = MemoryGateway(), Caller.staff("till-3")
    app = in_memory(gateway=gateway)
    jane = await app.customers.create(name="Jane Smith", phone_number="0700 123 456", by=till)
    await app.orders.create(customer=jane.id, item="Laptop Computer", amount="999.99", by=till)
    await app.notifications.dispatch_due()
    assert gateway.sent[0].to == "+254700123456"

asyncio.run(main())
"""


def modules_after(code: str) -> set[str]:
    """The modules a fresh interpreter has loaded after running the code."""
    report = "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + report],
        env={name: value for name, value in os.environ.items() if "COVERAGE" not in name},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def strangers(modules: set[str]) -> set[str]:
    owners = importlib.metadata.packages_distributions()
    roots = {module.partition(".")[0] for module in modules}
    return {
        root
        for root in roots - sys.stdlib_module_names
        if root in owners and not {name.lower() for name in owners[root]} <= ALLOWED
    }


def test_importing_savannah_loads_none_of_its_rooms():
    loaded = modules_after("import savannah")
    assert {name for name in loaded if name.startswith("savannah")} == {"savannah"}
    assert not {"asyncio", "dataclasses", "logging"} & (loaded - modules_after("import typing"))


def test_every_public_name_loads_without_a_framework():
    assert strangers(modules_after("from savannah import *")) == set()


def test_the_first_program_of_an_embedder_loads_no_framework():
    assert strangers(modules_after(THE_TEN_LINES)) == set()


def test_a_stranger_would_be_noticed():
    assert strangers(modules_after("import litestar")) >= {"litestar", "msgspec"}


def test_the_announced_names_are_the_ones_there_are():
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    loaded = {name: f"savannah.{home}" for name, home in savannah._HOME_OF.items()}
    assert typed == loaded
    assert sorted(typed) == sorted(public_names) == sorted(dir(savannah))
    assert all(hasattr(savannah, name) for name in public_names)


def test_an_unknown_name_is_refused_as_usual():
    assert not hasattr(savannah, "no_such_name")


def test_normalizing_a_number_needs_neither_settings_nor_a_loop():
    loaded = modules_after(
        "from savannah.entrypoints.cli import run; assert run(['normalize', '0700123456']) == 0"
    )
    assert not {"asyncio", "savannah.entrypoints.settings", "phonenumbers"} & loaded
    assert strangers(loaded) == set()
