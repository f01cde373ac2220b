"""The command line: each command parses, calls and prints; what it needs is imported only then.

Exit codes: 0 done, 1 the thing asked for failed, 2 wrong usage or invalid settings.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from savannah.entrypoints.cli.accounts import add_apps, add_keys, add_users, createsuperuser
from savannah.entrypoints.cli.check import check
from savannah.entrypoints.cli.console import (
    DONE,
    FAILED,
    MISUSED,
    Command,
    complain,
    count,
    port,
    settings_and_logs,
    write_out,
)
from savannah.entrypoints.cli.django import add_django, import_django
from savannah.entrypoints.cli.outbox import add_sms

if TYPE_CHECKING:
    from savannah.entrypoints.settings import Settings


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command of the command line and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        return FAILED
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return FAILED
    except ModuleNotFoundError as error:
        if (error.name or "savannah").startswith("savannah"):
            raise
        complain(f"{error.name} is not installed; this needs: pip install 'savannah[server]'")
        return FAILED
    except Exception as error:
        code = _explained(error)
        if code is None:
            raise
        return code


def _explained(error: Exception) -> int | None:
    """Print what went wrong; the exit code, or None for what we know nothing of."""
    from savannah.domain.errors import Invalid, SavannahError
    from savannah.entrypoints.settings import SettingsError
    from savannah.entrypoints.supervisor import CannotStart

    match error:
        case SettingsError():
            for name, rule in error.problems:
                complain(f"{name} {rule}")
            return MISUSED
        case Invalid():
            for problem in error.problems:
                complain(f"{problem.field or 'input'}: {problem.detail}")
            return FAILED
        case SavannahError():
            complain(error.detail)
            return FAILED
        case CannotStart():
            complain(str(error))
            return FAILED
    return None


def parser() -> argparse.ArgumentParser:
    """All commands with their arguments; `command` of what it has parsed runs the chosen one."""
    savannah = argparse.ArgumentParser(
        prog="savannah", description="An order desk that talks to its customers by SMS."
    )
    savannah.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = savannah.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Command, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(command=run)
        return added

    serve = add("serve", _serve, "Run the HTTP API and send the texts.")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serve.add_argument("--port", type=port, default=8000, help="0 picks a free one (%(default)s)")
    serve.add_argument("--workers", type=count, default=1, metavar="N", help="processes (1)")
    serve.add_argument(
        "--no-worker", action="store_true", help="serve only; texts wait for another process"
    )
    worker = add("worker", _worker, "Send the texts: a job worker on Redis.")
    worker.add_argument("--concurrency", type=count, default=4, metavar="N", help="batches (4)")
    worker.add_argument(
        "--metrics-port", type=port, metavar="P", help="show figures and health there (not)"
    )
    worker.add_argument("--metrics-host", metavar="H", help="address for that (127.0.0.1)")
    migrate = add("migrate", _migrate, "Bring the database schema up to date.")
    migrate.add_argument("--check", action="store_true", help="only say whether it is")
    add("demo", _demo, "Play the whole story, from a first account to a text on a handset.")
    simulator = add("simulator", _simulator, "Run the simulated gateway alone.")
    simulator.add_argument("--host", default="127.0.0.1", help="address (%(default)s)")
    simulator.add_argument("--port", type=port, default=9000, help="port (%(default)s)")
    superuser = add("createsuperuser", createsuperuser, "Make an administrator.")
    superuser.add_argument("--username", metavar="U", help="asked for when not given")
    superuser.add_argument("--email", metavar="E")
    add_apps(add("apps", _no_command, "Manage the programs that ask for tokens."))
    add_users(add("users", _no_command, "See who there is, and what they may do."))
    checked = add("check", check, "Validate settings; reach for the database and the gateway.")
    checked.add_argument("--deploy", action="store_true", help="also refuse unsafe settings")
    add_django(add("import-django", import_django, "Copy the data of the Django service over."))
    add_keys(add("keys", _no_command, "Manage the keys that sign tokens."))
    add_sms(add("sms", _no_command, "Look into the outbox; send dead letters again."))
    openapi = add("openapi", _openapi, "Print the OpenAPI document.")
    openapi.add_argument("--output", metavar="FILE", help="write it there instead")
    permissions = add("permissions", _permissions, "Print who may do what, as a page.")
    permissions.add_argument("--output", metavar="FILE", help="write it there instead")
    normalize = add("normalize", _normalize, "Print phone numbers in international form.")
    normalize.add_argument("numbers", nargs="+", metavar="NUMBER")
    normalize.add_argument("--region", default="KE", help="whose national numbers (%(default)s)")
    return savannah


class _Version(argparse.Action):
    """Like argparse's own, but reads the version only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"savannah {version('savannah')}")
        parser.exit()


def _no_command(_: argparse.Namespace) -> int:  # argparse asks for an action before this
    raise AssertionError


def _end_quietly_when_told() -> None:
    """Let SIGTERM end a process that is not ready yet as it ends one that is.

    The first process of a container would not even hear of it.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(DONE))


def _serve(options: argparse.Namespace) -> int:
    _end_quietly_when_told()
    settings = settings_and_logs()
    from savannah.entrypoints.serve import serve

    serve(
        settings,
        host=options.host,
        port=options.port,
        workers=options.workers,
        sends=not options.no_worker,
        announce=lambda url: print(f"Savannah is ready on {url}", flush=True),
    )
    return DONE


def _worker(options: argparse.Namespace) -> int:
    _end_quietly_when_told()
    settings = settings_and_logs()
    from savannah.entrypoints.serve import work

    work(
        settings,
        concurrency=options.concurrency,
        metrics=_metrics_place(settings, options),
        announce=lambda: print("Savannah is sending", flush=True),
    )
    return DONE


def _metrics_place(settings: Settings, options: argparse.Namespace) -> tuple[str, int] | None:
    """Where a worker shows its figures: as the command line says, else as the settings do."""
    host, port = settings.worker_metrics
    port = options.metrics_port if options.metrics_port is not None else port
    return None if port is None else (options.metrics_host or host, port)


def _simulator(options: argparse.Namespace) -> int:
    _end_quietly_when_told()
    settings = settings_and_logs().prepared()
    from savannah.entrypoints.serve import callback_root, simulate
    from savannah.entrypoints.simulator import SimulatorSettings

    receiver = settings.public_url or "http://127.0.0.1:8000"
    simulate(
        SimulatorSettings(callback_url=callback_root(settings, receiver)),
        host=options.host,
        port=options.port,
        announce=lambda url: print(f"The simulated gateway is ready on {url}", flush=True),
    )
    return DONE


def _migrate(options: argparse.Namespace) -> int:
    import asyncio

    settings = settings_and_logs().prepared()
    from savannah.adapters.sql import migrate, schema_is_current

    if asyncio.run(schema_is_current(settings.database_url)):
        print("The schema is up to date.")
        return DONE
    if options.check:
        print("The schema is not up to date: run `savannah migrate`.")
        return FAILED
    asyncio.run(migrate(settings.database_url))
    print("The schema is up to date now.")
    return DONE


def _demo(options: argparse.Namespace) -> int:
    del options
    from savannah.entrypoints.demo import demo

    return DONE if demo() else FAILED


def _openapi(options: argparse.Namespace) -> int:
    import json

    from savannah.entrypoints.http.openapi import document

    return write_out(json.dumps(document(), indent=2, ensure_ascii=False) + "\n", options.output)


def _permissions(options: argparse.Namespace) -> int:
    import asyncio

    from savannah.entrypoints.permissions import page

    return write_out(asyncio.run(page()), options.output)


def _normalize(options: argparse.Namespace) -> int:
    from savannah.domain.phone import PhoneNumber, PhoneRefused

    code = DONE
    for typed in options.numbers:
        try:
            print(PhoneNumber.parse(typed, region=options.region.upper()).e164)
        except PhoneRefused as refused:
            print(f"{refused.refusal}: {refused.detail}")
            code = FAILED
    return code
