"""The command line: each command parses, calls and prints; what it needs is imported only then.

Exit codes: 0 done, 1 the thing asked for failed, 2 wrong usage or invalid settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from savannah.adapters.sql import SqlStorage
    from savannah.domain.paging import Ordering, Page, PageRequest
    from savannah.entrypoints.container import Container
    from savannah.entrypoints.settings import Settings

DONE, FAILED, MISUSED = 0, 1, 2
_GATEWAY_PATIENCE_S = 15.0

T = TypeVar("T")
Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command of the command line and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = _parser().parse_args(arguments)
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
        _complain(f"{error.name} is not installed; this needs: pip install 'savannah[server]'")
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
                _complain(f"{name} {rule}")
            return MISUSED
        case Invalid():
            for problem in error.problems:
                _complain(f"{problem.field or 'input'}: {problem.detail}")
            return FAILED
        case SavannahError():
            _complain(error.detail)
            return FAILED
        case CannotStart():
            _complain(str(error))
            return FAILED
    return None


def _complain(text: str) -> None:
    print(f"savannah: {text}", file=sys.stderr)


# --- the commands --------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="savannah", description="An order desk that talks to its customers by SMS."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Command, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(command=run)
        return added

    serve = add("serve", _serve, "Run the HTTP API and send the texts.")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serve.add_argument("--port", type=_port, default=8000, help="0 picks a free one (%(default)s)")
    serve.add_argument("--workers", type=_count, default=1, metavar="N", help="processes (1)")
    serve.add_argument(
        "--no-worker", action="store_true", help="serve only; texts wait for another process"
    )
    worker = add("worker", _worker, "Send the texts: a job worker on Redis.")
    worker.add_argument("--concurrency", type=_count, default=4, metavar="N", help="batches (4)")
    worker.add_argument(
        "--metrics-port", type=_port, metavar="P", help="show figures and health there (not)"
    )
    worker.add_argument("--metrics-host", metavar="H", help="address for that (127.0.0.1)")
    migrate = add("migrate", _migrate, "Bring the database schema up to date.")
    migrate.add_argument("--check", action="store_true", help="only say whether it is")
    add("demo", _demo, "Play the whole story, from a first account to a text on a handset.")
    simulator = add("simulator", _simulator, "Run the simulated gateway alone.")
    simulator.add_argument("--host", default="127.0.0.1", help="address (%(default)s)")
    simulator.add_argument("--port", type=_port, default=9000, help="port (%(default)s)")
    superuser = add("createsuperuser", _createsuperuser, "Make an administrator.")
    superuser.add_argument("--username", metavar="U", help="asked for when not given")
    superuser.add_argument("--email", metavar="E")
    _add_apps(add("apps", _no_command, "Manage the programs that ask for tokens."))
    _add_users(add("users", _no_command, "See who there is, and what they may do."))
    check = add("check", _check, "Validate settings; reach for the database and the gateway.")
    check.add_argument("--deploy", action="store_true", help="also refuse unsafe settings")
    _add_django(add("import-django", _import_django, "Copy the data of the Django service over."))
    _add_keys(add("keys", _no_command, "Manage the keys that sign tokens."))
    _add_sms(add("sms", _no_command, "Look into the outbox; send dead letters again."))
    openapi = add("openapi", _openapi, "Print the OpenAPI document.")
    openapi.add_argument("--output", metavar="FILE", help="write it there instead")
    permissions = add("permissions", _permissions, "Print who may do what, as a page.")
    permissions.add_argument("--output", metavar="FILE", help="write it there instead")
    normalize = add("normalize", _normalize, "Print phone numbers in international form.")
    normalize.add_argument("numbers", nargs="+", metavar="NUMBER")
    normalize.add_argument("--region", default="KE", help="whose national numbers (%(default)s)")
    return parser


def _add_django(django: argparse.ArgumentParser) -> None:
    django.add_argument(
        "--database-url",
        required=True,
        metavar="URL",
        help="the old one: postgresql:// or sqlite:///",
    )
    django.add_argument("--customers-table", metavar="T", help="if it has a name of its own")
    django.add_argument("--orders-table", metavar="T", help="likewise")
    django.add_argument("--mapping", metavar="FILE", help="TOML with other tables and columns")
    django.add_argument(
        "--role", choices=("viewer", "staff"), help="of plain users (REGISTRATION_ROLE)"
    )
    django.add_argument("--batch", type=_count, default=500, metavar="N", help="rows (500)")
    django.add_argument("--dry-run", action="store_true", help="check everything, store nothing")


def _add_keys(keys: argparse.ArgumentParser) -> None:
    actions = keys.add_subparsers(metavar="ACTION", required=True)
    rotate = actions.add_parser(
        "rotate", help="let the next key sign from now on; older tokens stay valid"
    )
    rotate.set_defaults(command=_keys_rotate)
    revoked = actions.add_parser("revoke", help="drop a stolen key, and all tokens it has signed")
    revoked.add_argument("kid", metavar="KID")
    revoked.set_defaults(command=_keys_revoke)


def _add_users(users: argparse.ArgumentParser) -> None:
    actions = users.add_subparsers(metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="everybody, by user name")
    listed.set_defaults(command=_users_list)
    role = actions.add_parser("set-role", help="give somebody another role")
    role.add_argument("username")
    role.add_argument("role", choices=("viewer", "staff", "admin"))
    role.set_defaults(command=_users_set_role)
    for name, active, about in (
        ("disable", False, "end every login of somebody and let them in no more"),
        ("enable", True, "let somebody in again"),
    ):
        action = actions.add_parser(name, help=about)
        action.add_argument("username")
        action.set_defaults(command=_users_set_active, active=active)


def _add_apps(apps: argparse.ArgumentParser) -> None:
    actions = apps.add_subparsers(metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="every app, newest first")
    listed.set_defaults(command=_apps_list)
    create = actions.add_parser("create", help="make an app; its secret is printed this once")
    create.add_argument("name")
    create.add_argument("--public", action="store_true", help="it cannot keep a secret")
    create.add_argument(
        "--first-party", action="store_true", help="people may give it their password"
    )
    for option, about in (
        ("--redirect-uri", "where a browser may be sent with a code"),
        ("--scope", "what it may do at most"),
        ("--grant-type", "how it gets tokens; by default with a code, and refresh tokens"),
    ):
        create.add_argument(option, action="append", metavar="X", help=f"{about}; repeatable")
    create.set_defaults(command=_apps_create)
    rotate = actions.add_parser(
        "rotate-secret", help="give an app a new secret; the one before goes on for now"
    )
    rotate.add_argument("client_id")
    rotate.add_argument(
        "--end-logins",
        action="store_true",
        help="the secret is known to others: the former ones and all logins of the app end now",
    )
    rotate.set_defaults(command=_apps_rotate_secret)
    remove = actions.add_parser("remove-secret", help="end one of an app's secrets at once")
    remove.add_argument("client_id")
    remove.add_argument("secret", help="its name, as `savannah apps list` prints it")
    remove.set_defaults(command=_apps_remove_secret)
    configure = actions.add_parser("configure", help="change logout addresses, keys, PKCE, consent")
    configure.add_argument("client_id")
    configure.add_argument("changes", metavar="JSON", help="the fields to change, as an object")
    configure.set_defaults(command=_apps_configure)
    for name, active, about in (
        ("disable", False, "give an app no more tokens, and stop those it has"),
        ("enable", True, "let an app get tokens again"),
    ):
        action = actions.add_parser(name, help=about)
        action.add_argument("client_id")
        action.set_defaults(command=_apps_set_active, active=active)


def _add_sms(sms: argparse.ArgumentParser) -> None:
    actions = sms.add_subparsers(metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="the newest messages")
    listed.add_argument("--status", metavar="S", help="only those, such as queued or dead")
    listed.add_argument("--limit", type=_count, default=50, metavar="N", help="at most (50)")
    listed.set_defaults(command=_sms_list)
    replay = actions.add_parser("replay", help="queue dead messages again")
    replay.add_argument("ids", nargs="*", metavar="ID")
    replay.add_argument("--all-failed", action="store_true", help="every dead message")
    replay.set_defaults(command=_sms_replay, parser=replay)


def _port(typed: str) -> int:
    port = int(typed)
    if not 0 <= port <= 65535:
        raise ValueError
    return port


def _count(typed: str) -> int:
    count = int(typed)
    if count < 1:
        raise ValueError
    return count


def _no_command(_: argparse.Namespace) -> int:  # argparse asks for an action before this
    raise AssertionError


def _settings() -> Settings:
    """The settings, with logging as they say."""
    from savannah.entrypoints import logs, settings

    found = settings.load()
    logs.configure(level=found.log_level, format_=found.log_format)
    return found


@asynccontextmanager
async def _opened() -> AsyncIterator[Container]:
    """The parts of a process that serves nobody and sends nothing."""
    from savannah.entrypoints.container import Place, opened

    settings = _settings().prepared()
    place = Place(public_url=settings.public_url or "http://127.0.0.1:8000")
    async with opened(settings, place) as container:
        yield container


def _with_parts(work: Callable[[Container], Awaitable[int]]) -> int:
    import asyncio

    async def run() -> int:
        async with _opened() as container:
            return await work(container)

    return asyncio.run(run())


def _serve(options: argparse.Namespace) -> int:
    settings = _settings()
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
    settings = _settings()
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
    settings = _settings().prepared()
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

    settings = _settings().prepared()
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


def _createsuperuser(options: argparse.Namespace) -> int:
    from savannah.entrypoints.settings import SettingsError, superuser_password

    at_terminal = sys.stdin.isatty()
    username: str = options.username or (input("User name: ") if at_terminal else "")
    if not username:
        _complain("--username is needed where there is no terminal to ask at")
        return MISUSED
    password = superuser_password()
    if password is None and at_terminal:
        from getpass import getpass

        password = getpass("Password: ")
        if getpass("The same again: ") != password:
            _complain("the passwords differ")
            return FAILED
    if password is None:
        rule = "must be set where there is no terminal to ask at"
        raise SettingsError([("SAVANNAH_SUPERUSER_PASSWORD", rule)])
    chosen: str = password

    async def work(container: Container) -> int:
        user = await container.identity().accounts.create_superuser(
            username=username, email=options.email, password=chosen
        )
        print(f"{user.username} is an administrator now.")
        return DONE

    return _with_parts(work)


async def _every(
    read: Callable[[PageRequest], Awaitable[Page[T]]], ordering: Ordering
) -> AsyncIterator[T]:
    """The rows of all pages."""
    from savannah.domain.paging import LIMIT_MAX, PageRequest

    page = PageRequest(limit=LIMIT_MAX, ordering=ordering, count=False)
    while True:
        found = await read(page)
        for item in found.items:
            yield item
        if found.next is None:
            return
        page = replace(page, after=found.next)


def _users_list(options: argparse.Namespace) -> int:
    del options
    from savannah.application.ports import UserFilter
    from savannah.domain.paging import Ordering

    async def work(container: Container) -> int:
        accounts = container.identity().accounts
        rows = [("USER NAME", "ROLE", "ACTIVE", "LAST LOGIN", "E-MAIL")]
        everybody = _every(
            lambda page: accounts.list_users(UserFilter(), page, by=None), Ordering("username")
        )
        async for user in everybody:
            last_login = f"{user.last_login:%Y-%m-%d %H:%M}" if user.last_login else "never"
            active = "yes" if user.is_active else "no"
            rows.append((user.username, user.role, active, last_login, user.email or ""))
        _print_table(rows)
        return DONE

    return _with_parts(work)


def _users_set_active(options: argparse.Namespace) -> int:
    async def work(container: Container) -> int:
        accounts = container.identity().accounts
        user = await accounts.set_active(options.username, options.active, by=None)
        print(f"{user.username} {'may come in' if user.is_active else 'is locked out'} now.")
        return DONE

    return _with_parts(work)


def _apps_list(options: argparse.Namespace) -> int:
    del options
    from savannah.application.ports import ClientFilter
    from savannah.domain.paging import NEWEST_FIRST

    async def work(container: Container) -> int:
        apps = container.identity().apps
        rows = [("CLIENT ID", "NAME", "TYPE", "ACTIVE", "FIRST PARTY", "SECRETS", "CREATED")]
        every = _every(lambda page: apps.list_clients(ClientFilter(), page, by=None), NEWEST_FIRST)
        rows += [
            (
                client.client_id,
                client.name,
                client.client_type,
                "yes" if client.is_active else "no",
                "yes" if client.first_party else "no",
                ",".join(client.secret_ids) or "none",
                f"{client.created_at:%Y-%m-%d %H:%M}",
            )
            async for client in every
        ]
        _print_table(rows)
        return DONE

    return _with_parts(work)


def _apps_create(options: argparse.Namespace) -> int:
    from savannah.domain.access import Caller

    async def work(container: Container) -> int:
        client, secret = await container.identity().apps.create_client(
            name=options.name,
            client_type="public" if options.public else "confidential",
            redirect_uris=options.redirect_uri or (),
            scopes=options.scope,
            grant_types=options.grant_type,
            first_party=options.first_party,
            by=Caller.admin("operator"),
        )
        _print_credentials(client.client_id, secret)
        return DONE

    return _with_parts(work)


def _apps_rotate_secret(options: argparse.Namespace) -> int:
    async def work(container: Container) -> int:
        apps = container.identity().apps
        client, secret = await apps.rotate_secret(
            options.client_id, end_logins=options.end_logins, by=None
        )
        _print_credentials(client.client_id, secret)
        for older in client.secret_ids[1:]:
            print(f"The secret {older} goes on until it is removed.")
        return DONE

    return _with_parts(work)


def _print_credentials(client_id: str, secret: str | None) -> None:
    print(f"client_id      {client_id}")
    if secret is not None:
        print(f"client_secret  {secret}")
        print("Keep the secret now: nobody can read it again.")


def _apps_remove_secret(options: argparse.Namespace) -> int:
    async def work(container: Container) -> int:
        apps = container.identity().apps
        client = await apps.remove_secret(options.client_id, options.secret, by=None)
        print(f"{client.name} has {len(client.secret_ids)} secret now.")
        return DONE

    return _with_parts(work)


def _apps_set_active(options: argparse.Namespace) -> int:
    async def work(container: Container) -> int:
        apps = container.identity().apps
        changes = {"is_active": options.active}
        client = await apps.change_client(options.client_id, changes, by=None)
        print(f"{client.name} {'gets tokens again' if client.is_active else 'is switched off'}.")
        return DONE

    return _with_parts(work)


def _users_set_role(options: argparse.Namespace) -> int:
    from savannah.domain.access import Role

    async def work(container: Container) -> int:
        user = await container.identity().accounts.set_role(
            options.username, Role(options.role), by=None
        )
        print(f"{user.username} is {user.role} now.")
        return DONE

    return _with_parts(work)


def _import_django(options: argparse.Namespace) -> int:
    from dataclasses import replace
    from pathlib import Path

    from savannah.adapters.django_source import DjangoSource, LayoutUnknown
    from savannah.domain.access import Role
    from savannah.entrypoints.django_import import DjangoImport, Mappings, MappingUnusable
    from savannah.entrypoints.variables import DATABASE_URL

    try:
        url = DATABASE_URL.read(options.database_url)
        mappings = Mappings.read(Path(options.mapping)) if options.mapping else Mappings()
    except ValueError:
        _complain(f"--database-url {DATABASE_URL.rule}")
        return MISUSED
    except MappingUnusable as error:
        _complain(f"--mapping: {error}")
        return MISUSED
    layouts = dict(mappings.layouts)
    for kind, table in (("customers", options.customers_table), ("orders", options.orders_table)):
        if table:
            layouts[kind] = replace(layouts[kind], tables=(table,))
    mappings = replace(mappings, layouts=layouts)

    async def work(container: Container) -> int:
        settings: Settings = container.settings()
        source = DjangoSource(url)
        rows: list[tuple[str, ...]] = [("KIND", "TABLE", "READ", "IMPORTED", "ALREADY", "BAD")]
        failed = False
        try:
            importing = DjangoImport(
                source,
                container.storage(),
                business=settings.business,
                now=container.clock().now(),
                role=Role(options.role) if options.role else settings.registration_role,
                mappings=mappings,
                tell=_complain,
                batch=options.batch,
                dry=options.dry_run,
            )
            async for tally in importing.run():
                numbers = (tally.read, tally.imported, tally.present, tally.bad)
                rows.append((tally.kind, tally.table or "not there", *map(str, numbers)))
                failed = failed or bool(tally.bad)
                if tally.table is None and tally.kind in ("customers", "orders"):
                    _complain(f"no table of {tally.kind} is there: name it with a --mapping file")
                    failed = True
        except LayoutUnknown as error:
            _complain(str(error))
            failed = True
        finally:
            await source.close()
        _print_table(rows)
        if options.dry_run:
            print("This was a dry run: nothing was stored.")
        return FAILED if failed else DONE

    return _with_parts(work)


def _keys_rotate(options: argparse.Namespace) -> int:
    del options

    async def work(container: Container) -> int:
        kid = await container.tokens().rotate()
        print(f"The key {kid} signs from now on, in running servers within a minute.")
        return DONE

    return _with_parts(work)


def _keys_revoke(options: argparse.Namespace) -> int:
    async def work(container: Container) -> int:
        await container.tokens().revoke(options.kid)
        print("The key is worth nothing now, in running servers within half a minute.")
        return DONE

    return _with_parts(work)


def _apps_configure(options: argparse.Namespace) -> int:
    import json

    try:
        changes = json.loads(options.changes)
    except ValueError:
        changes = None
    if not isinstance(changes, dict):
        _complain("the changes must be one JSON object")
        return MISUSED

    async def work(container: Container) -> int:
        apps = container.identity().apps
        client = await apps.configure_provider(options.client_id, changes, by=None)
        print(f"{client.name} is changed.")
        return DONE

    return _with_parts(work)


def _sms_list(options: argparse.Namespace) -> int:
    from savannah.application.ports import NotificationFilter
    from savannah.domain.access import Caller
    from savannah.domain.notification import SmsStatus
    from savannah.domain.paging import LIMIT_MAX, PageRequest

    if options.status is not None and options.status not in set(SmsStatus):
        _complain(f"--status is one of {', '.join(SmsStatus)}")
        return MISUSED
    where = NotificationFilter(status=[SmsStatus(options.status)] if options.status else ())
    operator = Caller.admin("operator")

    async def work(container: Container) -> int:
        notifications = container.notifications()
        left: int = options.limit
        rows = [("ID", "STATUS", "EVENT", "TO", "ATTEMPTS", "WHY", "CREATED")]
        page = PageRequest(limit=min(left, LIMIT_MAX), count=False)
        while True:
            found = await notifications.list(where, page, by=operator)
            rows += [
                (
                    str(message.id),
                    message.status,
                    message.event,
                    message.to.masked if message.to else "",
                    str(message.attempts),
                    message.skip_reason or message.defer_reason or message.outcome_code or "",
                    f"{message.created_at:%Y-%m-%d %H:%M:%S}",
                )
                for message in found.items
            ]
            left -= len(found.items)
            if found.next is None or left <= 0:
                break
            page = PageRequest(limit=min(left, LIMIT_MAX), after=found.next, count=False)
        _print_table(rows)
        return DONE

    return _with_parts(work)


def _sms_replay(options: argparse.Namespace) -> int:
    from uuid import UUID

    from savannah.domain.access import Caller
    from savannah.domain.order import NotificationId

    if bool(options.ids) == options.all_failed:
        options.parser.error("give message ids, or --all-failed")
    try:
        ids = [NotificationId(UUID(typed)) for typed in options.ids]
    except ValueError:
        options.parser.error("an ID is a UUID, as `savannah sms list` prints them")
    operator = Caller.admin("operator")

    async def work(container: Container) -> int:
        notifications = container.notifications()
        chosen = await notifications.dead(by=operator) if options.all_failed else ids
        count = await notifications.replay(chosen, by=operator)
        print(f"{count} message{'' if count == 1 else 's'} queued again.")
        return DONE

    return _with_parts(work)


def _check(options: argparse.Namespace) -> int:
    import asyncio

    settings = _settings()
    rows = [("settings", "ok", "development" if settings.debug else "production")]
    rows += [("settings", "note", remark) for remark in settings.remarks()]
    wrong = settings.sending_problems() + settings.missing_extras()
    rows += [("settings", "FAILED", f"{name} {rule}") for name, rule in wrong]
    if options.deploy:
        unsafe = settings.unsafe()
        rows += [("deploy", "FAILED", f"{name} {rule}") for name, rule in unsafe]
        if not unsafe:
            rows.append(("deploy", "ok", "no unsafe setting"))
        rows += [("deploy", "note", doubt) for doubt in settings.doubts()]
    rows += asyncio.run(_reached(settings.prepared()))
    _print_table([("PART", "STATE", "DETAIL"), *rows])
    return FAILED if any(state == "FAILED" for _, state, _ in rows) else DONE


_NO_TRIGRAMS = (
    "search",
    "note",
    "reads whole tables: let the role install pg_trgm, and run `savannah migrate` again",
)


async def _searches(storage: SqlStorage, settings: Settings) -> list[tuple[str, str, str]]:
    from savannah.adapters.sql import searches_are_indexed

    indexed = settings.embedded or await searches_are_indexed(storage)
    return [] if indexed else [_NO_TRIGRAMS]


async def _reached(settings: Settings) -> list[tuple[str, str, str]]:
    """What answers of the things this installation depends on."""
    import asyncio

    from savannah.adapters.sql import SqlStorage, schema_is_current
    from savannah.domain.errors import Unavailable
    from savannah.entrypoints.container import africas_talking, saq_queue

    rows: list[tuple[str, str, str]] = []
    storage = SqlStorage.open(settings.database_url, pool_size=1)
    try:
        await storage.ping()
        rows.append(("database", "ok", "SQLite" if settings.embedded else "Postgres"))
        if await schema_is_current(storage):
            rows += [("schema", "ok", "up to date"), *await _searches(storage, settings)]
        elif settings.embedded:
            rows.append(("schema", "note", "`savannah serve` brings it up to date"))
        else:
            rows.append(("schema", "FAILED", "run `savannah migrate`"))
    except Unavailable as error:
        rows.append(("database", "FAILED", error.detail))
    finally:
        await storage.close()
    if settings.redis_url is None:
        rows.append(("redis", "disabled", "jobs are carried in-process"))
    else:
        queue = saq_queue(settings.redis_url)
        try:
            await queue.ping()
            rows.append(("redis", "ok", "jobs and limits" if settings.has_workers else "limits"))
        except Unavailable as error:
            rows.append(("redis", "FAILED", error.detail))
        finally:
            await queue.close()
    rows += await _issuers(settings)
    rows.append(("callbacks", "note", f"{_callbacks(settings)}/delivery/"))
    if settings.gateway.base_url is None:
        if settings.embedded:
            rows.append(("gateway", "note", "simulated; it runs with `savannah serve`"))
        return rows
    gateway = africas_talking(settings.gateway, settings.gateway.base_url)
    try:
        async with asyncio.timeout(_GATEWAY_PATIENCE_S):
            rows.append(("gateway", "ok", f"balance {await gateway.balance()}"))
    except Unavailable as error:
        rows.append(("gateway", "FAILED", error.detail))
    except TimeoutError:
        rows.append(("gateway", "FAILED", "no answer in time"))
    finally:
        await gateway.aclose()
    return rows


async def _issuers(settings: Settings) -> list[tuple[str, str, str]]:
    from savannah.adapters.system import SystemClock
    from savannah.entrypoints.container import trusted_issuers

    issuers = trusted_issuers(settings, SystemClock())
    if issuers is None:
        return []
    try:
        found = await issuers.reach()
    finally:
        await issuers.aclose()
    return [
        ("issuer", "FAILED", f"{issuer}: {trouble}") if trouble else ("issuer", "ok", issuer)
        for issuer, trouble in found.items()
    ]


def _callbacks(settings: Settings) -> str:
    from savannah.entrypoints.serve import callback_root

    return callback_root(settings, settings.public_url or "http://127.0.0.1:8000")


def _openapi(options: argparse.Namespace) -> int:
    import json

    from savannah.entrypoints.http.openapi import document

    return _printed(json.dumps(document(), indent=2, ensure_ascii=False) + "\n", options.output)


def _permissions(options: argparse.Namespace) -> int:
    import asyncio

    from savannah.entrypoints.permissions import page

    return _printed(asyncio.run(page()), options.output)


def _printed(text: str, path: str | None) -> int:
    from pathlib import Path

    if path:
        Path(path).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return DONE


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


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
