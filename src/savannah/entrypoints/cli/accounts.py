"""`savannah createsuperuser`, `users`, `apps` and `keys`: who may come in, and with what."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from savannah.entrypoints.cli.console import (
    DONE,
    FAILED,
    MISUSED,
    complain,
    print_table,
    with_parts,
)

if TYPE_CHECKING:
    from savannah.domain.paging import Ordering, Page, PageRequest
    from savannah.entrypoints.container import Container

T = TypeVar("T")


def add_users(users: argparse.ArgumentParser) -> None:
    actions = users.add_subparsers(metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="everybody, by user name")
    listed.set_defaults(command=_users_list)
    role = actions.add_parser("set-role", help="give somebody another role")
    role.add_argument("username")
    role.add_argument("role", choices=("viewer", "staff", "admin"))
    role.set_defaults(command=_users_set_role)
    reset = actions.add_parser(
        "reset-password", help="give somebody a new password, printed this once; their logins end"
    )
    reset.add_argument("username")
    reset.set_defaults(command=_users_reset_password)
    for name, active, about in (
        ("disable", False, "end every login of somebody and let them in no more"),
        ("enable", True, "let somebody in again"),
    ):
        action = actions.add_parser(name, help=about)
        action.add_argument("username")
        action.set_defaults(command=_users_set_active, active=active)


def add_apps(apps: argparse.ArgumentParser) -> None:
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


def add_keys(keys: argparse.ArgumentParser) -> None:
    actions = keys.add_subparsers(metavar="ACTION", required=True)
    rotate = actions.add_parser(
        "rotate", help="let the next key sign from now on; older tokens stay valid"
    )
    rotate.set_defaults(command=_keys_rotate)
    revoked = actions.add_parser("revoke", help="drop a stolen key, and all tokens it has signed")
    revoked.add_argument("kid", metavar="KID")
    revoked.set_defaults(command=_keys_revoke)


def createsuperuser(options: argparse.Namespace) -> int:
    from savannah.entrypoints.settings import SettingsError, superuser_password

    at_terminal = sys.stdin.isatty()
    username: str = options.username or (input("User name: ") if at_terminal else "")
    if not username:
        complain("--username is needed where there is no terminal to ask at")
        return MISUSED
    password = superuser_password()
    if password is None and at_terminal:
        from getpass import getpass

        password = getpass("Password: ")
        if getpass("The same again: ") != password:
            complain("the passwords differ")
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

    return with_parts(work)


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
        print_table(rows)
        return DONE

    return with_parts(work)


def _users_set_role(options: argparse.Namespace) -> int:
    from savannah.domain.access import Role

    async def work(container: Container) -> int:
        user = await container.identity().accounts.set_role(
            options.username, Role(options.role), by=None
        )
        print(f"{user.username} is {user.role} now.")
        return DONE

    return with_parts(work)


def _users_reset_password(options: argparse.Namespace) -> int:
    async def work(container: Container) -> int:
        accounts = container.identity().accounts
        user, password = await accounts.reset_password(options.username)
        print(f"The password of {user.username} is {password} until they change it.")
        return DONE

    return with_parts(work)


def _users_set_active(options: argparse.Namespace) -> int:
    async def work(container: Container) -> int:
        accounts = container.identity().accounts
        user = await accounts.set_active(options.username, options.active, by=None)
        print(f"{user.username} {'may come in' if user.is_active else 'is locked out'} now.")
        return DONE

    return with_parts(work)


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
        print_table(rows)
        return DONE

    return with_parts(work)


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

    return with_parts(work)


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

    return with_parts(work)


def _apps_remove_secret(options: argparse.Namespace) -> int:
    async def work(container: Container) -> int:
        apps = container.identity().apps
        client = await apps.remove_secret(options.client_id, options.secret, by=None)
        print(f"{client.name} has {len(client.secret_ids)} secret now.")
        return DONE

    return with_parts(work)


def _apps_set_active(options: argparse.Namespace) -> int:
    async def work(container: Container) -> int:
        apps = container.identity().apps
        changes = {"is_active": options.active}
        client = await apps.change_client(options.client_id, changes, by=None)
        print(f"{client.name} {'gets tokens again' if client.is_active else 'is switched off'}.")
        return DONE

    return with_parts(work)


def _apps_configure(options: argparse.Namespace) -> int:
    import json

    try:
        changes = json.loads(options.changes)
    except ValueError:
        changes = None
    if not isinstance(changes, dict):
        complain("the changes must be one JSON object")
        return MISUSED

    async def work(container: Container) -> int:
        apps = container.identity().apps
        client = await apps.configure_provider(options.client_id, changes, by=None)
        print(f"{client.name} is changed.")
        return DONE

    return with_parts(work)


def _print_credentials(client_id: str, secret: str | None) -> None:
    print(f"client_id      {client_id}")
    if secret is not None:
        print(f"client_secret  {secret}")
        print("Keep the secret now: nobody can read it again.")


def _keys_rotate(options: argparse.Namespace) -> int:
    del options

    async def work(container: Container) -> int:
        kid = await container.tokens().rotate()
        print(f"The key {kid} signs from now on, in running servers within half a minute.")
        return DONE

    return with_parts(work)


def _keys_revoke(options: argparse.Namespace) -> int:
    async def work(container: Container) -> int:
        await container.tokens().revoke(options.kid)
        print("The key is worth nothing now, in running servers within half a minute.")
        return DONE

    return with_parts(work)


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
