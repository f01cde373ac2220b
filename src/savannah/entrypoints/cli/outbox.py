"""`savannah sms`: a look into the outbox, and dead letters sent again."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from savannah.entrypoints.cli.console import DONE, MISUSED, complain, count, print_table, with_parts

if TYPE_CHECKING:
    from savannah.entrypoints.container import Container


def add_sms(sms: argparse.ArgumentParser) -> None:
    actions = sms.add_subparsers(metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="the newest messages")
    listed.add_argument("--status", metavar="S", help="only those, such as queued or dead")
    listed.add_argument("--limit", type=count, default=50, metavar="N", help="at most (50)")
    listed.set_defaults(command=_sms_list)
    replay = actions.add_parser("replay", help="queue dead messages again")
    replay.add_argument("ids", nargs="*", metavar="ID")
    replay.add_argument("--all-failed", action="store_true", help="every dead message")
    replay.set_defaults(command=_sms_replay, parser=replay)


def _sms_list(options: argparse.Namespace) -> int:
    from savannah.application.ports import NotificationFilter
    from savannah.domain.access import Caller
    from savannah.domain.notification import SmsStatus
    from savannah.domain.paging import LIMIT_MAX, PageRequest

    if options.status is not None and options.status not in set(SmsStatus):
        complain(f"--status is one of {', '.join(SmsStatus)}")
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
        print_table(rows)
        return DONE

    return with_parts(work)


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
        queued = await notifications.replay(chosen, by=operator)
        print(f"{queued} message{'' if queued == 1 else 's'} queued again.")
        return DONE

    return with_parts(work)
