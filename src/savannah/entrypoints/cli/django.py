"""`savannah import-django`: the data of the Django service, counted at the end."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from savannah.entrypoints.cli.console import (
    DONE,
    FAILED,
    MISUSED,
    complain,
    count,
    print_table,
    with_parts,
)

if TYPE_CHECKING:
    from savannah.entrypoints.container import Container
    from savannah.entrypoints.settings import Settings


def add_django(django: argparse.ArgumentParser) -> None:
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
    django.add_argument("--batch", type=count, default=500, metavar="N", help="rows (500)")
    django.add_argument("--dry-run", action="store_true", help="check everything, store nothing")


def import_django(options: argparse.Namespace) -> int:
    from dataclasses import replace
    from pathlib import Path

    from savannah.adapters.django_source import DjangoSource, LayoutUnknown
    from savannah.domain.access import Role
    from savannah.entrypoints.django_import import DjangoImport, Mappings, MappingUnusable
    from savannah.entrypoints.variables import DATABASE_URL, Refusal

    try:
        url = DATABASE_URL.read(options.database_url)
        mappings = Mappings.read(Path(options.mapping)) if options.mapping else Mappings()
    except ValueError as error:
        rule = error if isinstance(error, Refusal) else DATABASE_URL.rule
        complain(f"--database-url {rule}")
        return MISUSED
    except MappingUnusable as error:
        complain(f"--mapping: {error}")
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
                tell=complain,
                batch=options.batch,
                dry=options.dry_run,
            )
            async for tally in importing.run():
                numbers = (tally.read, tally.imported, tally.present, tally.bad)
                rows.append((tally.kind, tally.table or "not there", *map(str, numbers)))
                failed = failed or bool(tally.bad)
                if tally.table is None and tally.kind in ("customers", "orders"):
                    complain(f"no table of {tally.kind} is there: name it with a --mapping file")
                    failed = True
        except LayoutUnknown as error:
            complain(str(error))
            failed = True
        finally:
            await source.close()
        print_table(rows)
        if options.dry_run:
            print("This was a dry run: nothing was stored.")
        return FAILED if failed else DONE

    return with_parts(work)
