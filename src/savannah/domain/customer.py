"""The customer: whom the business sells to and texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final, NewType, Self
from uuid import UUID

from savannah.domain import text
from savannah.domain.errors import (
    CustomerArchived,
    CustomerErased,
    Problems,
    Refused,
)
from savannah.domain.phone import PhoneNumber, PhoneRefused
from savannah.domain.sms_text import Locale

CustomerId = NewType("CustomerId", UUID)

CODE_SYMBOLS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CODE: Final = re.compile(r"[A-Z0-9][A-Z0-9-]{1,19}")


class Reachability(StrEnum):
    """What delivery reports have taught us about the customer's phone."""

    UNKNOWN = "unknown"
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """A customer as stored; `version` grows by one per effective change.

    An erased customer keeps id, code and dates, while `name`, `email`, `phone` and `notes` are
    None.
    """

    id: CustomerId
    code: str
    name: str | None
    email: str | None
    phone: PhoneNumber | None
    locale: Locale
    sms_opt_out: bool
    reachability: Reachability = Reachability.UNKNOWN
    notes: str | None = ""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None = None
    erased_at: datetime | None = None
    version: int = 1

    @classmethod
    def create(
        cls,
        *,
        id: CustomerId,
        name: object,
        phone_number: object,
        email: object = None,
        code: object,
        locale: object,
        sms_opt_out: object = False,
        notes: object = "",
        metadata: object = None,
        region: str,
        at: datetime,
    ) -> Self:
        """A new customer from what a caller typed.

        Args:
            region: whose national spellings `phone_number` may use, such as `KE`.

        Raises:
            Invalid: with every broken field.
        """
        problems = Problems()
        fields: dict[str, Any] = {}
        given = {
            "name": name,
            "phone_number": phone_number,
            "email": email,
            "code": code,
            "locale": locale,
            "sms_opt_out": sms_opt_out,
            "notes": notes,
            "metadata": {} if metadata is None else metadata,
        }
        for field_name, value in given.items():
            rule = _RULES[field_name]
            attribute = _ATTRIBUTES.get(field_name, field_name)
            fields[attribute] = problems.check(
                field_name, partial(rule, value, None, region), default=None
            )
        problems.raise_if_any()
        return cls(id=id, created_at=at, updated_at=at, **fields)

    def updated(
        self, changes: Mapping[str, object], *, region: str, at: datetime
    ) -> tuple[Self, tuple[str, ...]]:
        """The customer after a merge of `changes`, and the names of the fields that changed.

        Nothing changed means the same object and no names. With another phone, nothing is known of
        it; and whoever wants texts again is no longer taken for one who has blocked us.

        Raises:
            Invalid: with every broken, unknown, read-only or immutable field.
        """
        problems = Problems()
        new: dict[str, Any] = {}
        for name, value in changes.items():
            if name == "code":
                if not isinstance(value, str) or value.strip().upper() != self.code:
                    problems.add(name, "immutable_field", "The code cannot be changed")
            elif name in READ_ONLY:
                problems.add(name, "read_only_field", "This is set by the server")
            elif name not in _RULES:
                problems.add_unknown(name)
            elif value is None and name != "email":
                problems.add(name, "null_not_allowed", "This cannot be null")
            else:
                attribute = _ATTRIBUTES.get(name, name)
                new[attribute] = problems.check(
                    name,
                    partial(_RULES[name], value, self.metadata, region),
                    default=getattr(self, attribute),
                )
        problems.raise_if_any()
        changed = {name: value for name, value in new.items() if value != getattr(self, name)}
        if not changed:
            return self, ()
        wanted_again = changed.get("sms_opt_out") is False
        if "phone" in changed or (wanted_again and self.reachability is Reachability.BLOCKED):
            changed["reachability"] = Reachability.UNKNOWN
        after = replace(self, **changed, updated_at=at, version=self.version + 1)
        public = {attribute: name for name, attribute in _ATTRIBUTES.items()}
        names = (public.get(name, name) for name in changed if name != "reachability")
        return after, tuple(names)

    def require_editable(self) -> None:
        """Raises: CustomerErased, CustomerArchived."""
        if self.erased_at is not None:
            raise CustomerErased
        if self.archived_at is not None:
            raise CustomerArchived

    def archived(self, *, at: datetime) -> Self:
        """Out of the way: hidden from lists, closed to new orders; an archived one stays so."""
        if self.archived_at is not None:
            return self
        return replace(self, archived_at=at, updated_at=at, version=self.version + 1)

    def restored(self, *, at: datetime) -> Self:
        """Back from the archive.

        Raises:
            CustomerErased: there is nobody to restore.
        """
        if self.erased_at is not None:
            raise CustomerErased
        if self.archived_at is None:
            return self
        return replace(self, archived_at=None, updated_at=at, version=self.version + 1)

    def reached(self, reachability: Reachability) -> Self:
        """What a delivery report taught; not a revision, so the version stays."""
        return replace(self, reachability=reachability)


READ_ONLY: Final = frozenset(
    {"id", "sms_reachability", "created_at", "updated_at", "archived_at", "version"}
)


def phone_number(value: object, *, region: str) -> PhoneNumber:
    """A mobile number in any accepted spelling.

    Raises:
        Refused: `wrong_type`, `invalid_phone`, `phone_not_mobile`.
    """
    if not isinstance(value, str):
        raise Refused("wrong_type", "This must be a string")
    try:
        return PhoneNumber.parse(value, region=region)
    except PhoneRefused as refused:
        raise Refused(refused.refusal, refused.detail) from None


def code(value: object) -> str:
    """The business's own short name for a customer, upper-cased.

    Raises:
        Refused: `wrong_type`, `blank`, `too_short`, `too_long`, `invalid_format`.
    """
    found = text.clean(value, least=2, most=20)
    # Outside ASCII there are letters whose capital is within: the dotless i, the long s.
    if not (found.isascii() and _CODE.fullmatch(found.upper())):
        raise Refused("invalid_format", "Letters A-Z, digits and dashes, not beginning with a dash")
    return found.upper()


def generated_code(symbols: str) -> str:
    """The code of a customer who came without one: `CUST-` and six random symbols."""
    return f"CUST-{symbols}"


_Rule = Callable[[object, Mapping[str, str] | None, str], object]

_RULES: Final[dict[str, _Rule]] = {
    "name": lambda value, _, __: text.clean(value, most=255),
    "phone_number": lambda value, _, region: phone_number(value, region=region),
    "email": lambda value, _, __: None if value is None else text.email(value),
    "code": lambda value, _, __: code(value),
    "locale": lambda value, _, __: text.choice(value, Locale),
    "sms_opt_out": lambda value, _, __: text.flag(value),
    "notes": lambda value, _, __: text.notes(value),
    "metadata": lambda value, present, _: text.metadata(value, onto=present),
}
_ATTRIBUTES: Final = {"phone_number": "phone"}
