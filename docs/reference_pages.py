"""Writes the reference pages that the code knows best: `uv run nox -s reference`; a test compares.

Each page is plain Markdown, so that it also reads well where nothing is built.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from savannah.entrypoints import permissions
from savannah.entrypoints.cli import parser
from savannah.entrypoints.http import openapi
from savannah.entrypoints.http.problems import TITLES

REFERENCE: Final = Path(__file__).parent / "reference"
_WRITTEN: Final = "<!-- Written by `uv run nox -s reference`; a test compares. -->\n"

_COMMANDS: Final = f"""\
# Commands

{_WRITTEN}
`savannah COMMAND`, also `python -m savannah COMMAND`. Exit codes: 0 done, 1 the thing asked for
failed, 2 wrong usage or invalid settings. `savannah --version` prints `savannah` and the version;
`savannah COMMAND --help` explains one.

`serve` prints `Savannah is ready on http://HOST:PORT` and `worker` prints `Savannah is sending`
once they are. `SIGTERM` stops accepting, finishes what is in flight within a bound, and exits 0.
`createsuperuser` asks for the password, or reads `SAVANNAH_SUPERUSER_PASSWORD` where there is no
terminal. Lists show phone numbers masked. `import-django` has a page of its own,
[move from Django](../how-to/move-from-django.md).

What is in brackets may be left out; `...` may be repeated.
"""
_REST: Final = f"""\
# REST

{_WRITTEN}
Everything under `/api` takes and answers JSON; a running server shows each body, parameter and
answer at `/docs`, and as an OpenAPI 3.1 document at `/openapi.json`. `savannah openapi` prints the
same document. Refusals are [problem documents](errors.md); who has which scope is told by the
[permissions](permissions.md).

- **pages**: `limit`, `cursor`, `ordering`; follow `next` and `previous` of the answer.
- **revision**: takes `If-Match` with the `ETag` that was read, and answers 412 to a newer one.
- **once**: takes `Idempotency-Key`; the same request with the same key happens once, and is
  answered alike for a day.
"""
_ERRORS: Final = f"""\
# Errors

{_WRITTEN}
Every refusal under `/api` is a problem document (RFC 9457). Its `type` is a page of this service,
`code` is stable, and `errors` names each broken field, parameter or header.

```json
{{"type": "/problems/validation_error", "title": "Some fields are not valid", "status": 422,
 "code": "validation_error", "detail": "2 problems found", "instance": "/api/customers/",
 "request_id": "01J9Z3K4",
 "errors": [
  {{"pointer": "#/phone_number", "field": "phone_number", "code": "invalid_phone",
   "detail": "Not a Kenyan mobile or E.164 number"}},
  {{"pointer": "#/name", "field": "name", "code": "required",
   "detail": "This field is required"}}]}}
```

The checks come in this order, and the first that fails answers: token (401), scope (403), path
(404), media type and parsing (415, 400), fields (422), `If-Match` (412, 428), state (409).

"""


def pages() -> dict[str, str]:
    """The text of each page by the name of its file."""
    return {
        "commands.md": commands(),
        "errors.md": errors(),
        "permissions.md": asyncio.run(permissions.page()),
        "rest.md": rest(),
    }


def commands() -> str:
    """Every command with its arguments, as the command line itself takes them apart."""
    parts = [_COMMANDS]
    for name, about, command in _commands(parser()):
        arguments = [
            action
            for action in command._actions  # noqa: SLF001 - argparse tells nobody else
            if not isinstance(action, argparse._HelpAction)  # noqa: SLF001 - likewise
        ]
        usage = " ".join(["savannah", name, *map(_usage, arguments)])
        parts.append(f"## {name}\n\n{about}\n\n```text\n{usage}\n```\n")
        told = [
            (f"`{_name(action)}`", action.help % vars(action))
            for action in arguments
            if action.help
        ]
        if told:
            parts.append(_table(("argument", "meaning"), told))
    return "\n".join(parts)


def _commands(
    of: argparse.ArgumentParser, before: str = ""
) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    for group in of._actions:  # noqa: SLF001 - argparse tells nobody else
        if not isinstance(group, argparse._SubParsersAction):  # noqa: SLF001 - likewise
            continue
        abouts = {each.dest: each.help for each in group._choices_actions}  # noqa: SLF001 - likewise
        for name, command in group.choices.items():
            inner = list(_commands(command, f"{before}{name} "))
            if inner:
                yield from inner
            else:
                about = abouts[name] or ""
                yield f"{before}{name}", f"{about[:1].upper()}{about[1:].rstrip('.')}.", command


def _name(action: argparse.Action) -> str:
    if action.option_strings:
        return action.option_strings[-1]
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


def _usage(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices:
        value = "|".join(map(str, action.choices))
    named = " ".join([*action.option_strings, *([value] if action.nargs != 0 else [])])
    if action.nargs == "*" or (action.option_strings and not action.required):
        named = f"[{named}]"
    many = action.nargs in ("+", "*") or isinstance(
        action,
        argparse._AppendAction,  # noqa: SLF001 - likewise
    )
    return f"{named} ..." if many else named


def rest() -> str:
    """Every endpoint of the OpenAPI document, by its tag."""
    document = openapi.document()
    parts = [_REST]
    for tag in document["tags"]:
        rows = [
            (f"`{method.upper()} {path}`", operation["summary"], _need(operation), _also(operation))
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if operation.get("tags") == [tag["name"]]
        ]
        parts.append(f"## {tag['name']}\n\n{tag['description']}\n")
        parts.append(_table(("endpoint", "what it does", "needs", "also"), rows))
    return "\n".join(parts)


def _need(operation: Mapping[str, Any]) -> str:
    """A scope, `a token`, or nothing."""
    ways = operation["security"]
    if not ways or {} in ways:
        return "-"
    scopes = [f"`{scope}`" for scope in ways[0]["bearer"]]
    return " ".join(scopes) or "a token"


def _also(operation: Mapping[str, Any]) -> str:
    names = {
        each.get("name") or each["$ref"].rpartition("/")[2]
        for each in operation.get("parameters", ())
    }
    marks = {"cursor": "pages", "IfMatch": "revision", "IdempotencyKey": "once"}
    return ", ".join(mark for name, mark in marks.items() if name in names) or "-"


def errors() -> str:
    """Every problem code with what its own page says."""
    rows = [(f"`{code}`", title, todo) for code, (title, todo) in TITLES.items()]
    return _ERRORS + _table(("code", "what it means", "what to do"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


if __name__ == "__main__":
    for file, text in pages().items():
        (REFERENCE / file).write_text(text)
