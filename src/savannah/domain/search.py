"""The search that every storage guarantees: folding, tokens, phone digits, rank.

Both sides are folded first (`fold`). A row is found when

- EXACT: one whole field equals the whole query, or the phone is the number the query spells, or
  the order number is the one the query spells (`Reference.compact` of both is equal); else when
  every token is found by substring in some field, and then it is
- PREFIX: every token begins a field or a blank-separated word of one; else
- SUBSTRING.

For a token two more readings count beside the text fields: `SearchQuery.digits_of(token)` within
`phone.search_digits`, of rank PREFIX where one of the two spellings begins with them, and
`Reference.compact(token)` within the compact order number, always of rank SUBSTRING. Rows are
ordered by rank, newer `updated_at`, id ascending. A storage may do better (trigrams, ranked
FUZZY), never worse; SQL storages filter and rank in the database by folded columns, and
`match_customer` and `match_order` say in words why a row was found.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from savannah.domain.customer import Customer
from savannah.domain.errors import BadQuery
from savannah.domain.order import Order, Reference
from savannah.domain.phone import PhoneNumber, PhoneRefused, search_digits
from savannah.domain.text import is_piled

QUERY_MIN: Final = 2
QUERY_MAX: Final = 100
PHONE_DIGITS_MIN: Final = 4
_PHONE_LIKE: Final = re.compile(r"[0-9+\-.()\s]+")


class Rank(IntEnum):
    """How well a row matches; lower is better."""

    EXACT = 0
    PREFIX = 1
    SUBSTRING = 2
    FUZZY = 3


@dataclass(frozen=True, slots=True)
class Match:
    """Why a row was found: the field of the best match, and its kind."""

    field: str
    rank: Rank

    @property
    def kind(self) -> str:
        return self.rank.name.lower()


def fold(value: str) -> str:
    """Case and accents removed, blanks collapsed: what both sides of a comparison become."""
    if value.isascii():
        return " ".join(value.lower().split())
    spread = unicodedata.normalize("NFKD", value.casefold())
    bare = "".join(char for char in spread if not unicodedata.combining(char))
    return " ".join(unicodedata.normalize("NFC", bare.casefold()).split())


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A parsed `q`.

    Attributes:
        text: the whole query, folded.
        tokens: what every row must contain, folded; one token when it looks like a phone.
        phone: the E.164 number it spells, if it does.
        digits: its digits, when all of it looks like a phone but spells no whole number.
    """

    text: str
    tokens: tuple[str, ...]
    phone: str | None = None
    digits: str | None = None

    @classmethod
    def parse(cls, q: str, *, region: str = "KE") -> SearchQuery:
        """Raises: BadQuery, `query_too_short` below 2 characters, `invalid_parameter` over 100."""
        if is_piled(q):
            raise BadQuery("q", "Too many marks follow one another")
        typed = unicodedata.normalize("NFC", q).strip()
        if len(typed) > QUERY_MAX:
            raise BadQuery("q", f"At most {QUERY_MAX} characters")
        for char in typed:
            if unicodedata.category(char) in ("Cc", "Cs") and not char.isspace():
                raise BadQuery("q", "Control characters are not allowed here")
        folded = fold(typed)
        if len(typed) < QUERY_MIN or not folded:
            raise BadQuery("q", f"At least {QUERY_MIN} characters", code="query_too_short")
        digits = _phone_digits(typed)
        if digits is None:
            return cls(folded, tuple(dict.fromkeys(folded.split())))
        try:
            number = PhoneNumber.parse(typed, region=region)
        except PhoneRefused:
            return cls(folded, (folded,), digits=digits)
        return cls(folded, (folded,), phone=number.e164)

    def digits_of(self, token: str) -> str | None:
        """The digits by which a token also finds phones: four or more, with phone punctuation.

        None where the whole query spells one number: that finds exactly this number.
        """
        return None if self.phone is not None else _phone_digits(token)

    def match(
        self, fields: Mapping[str, str | None], *, phone: str | None, phone_digits: str
    ) -> Match | None:
        """Why a row with these fields is found, or None.

        Args:
            fields: field name to its text as stored; `order_number` is read forgivingly.
            phone: the row's E.164 number.
            phone_digits: as `phone.search_digits` makes it.
        """
        folded = {name: fold(value) for name, value in fields.items() if value}
        for name, value in folded.items():
            if value == self.text or (name == "order_number" and _same_reference(self.text, value)):
                return Match(name, Rank.EXACT)
        if self.phone is not None and self.phone == phone:
            return Match("phone_number", Rank.EXACT)
        found: list[Match] = []
        for token in self.tokens:
            candidates = [
                Match(name, rank)
                for name, value in folded.items()
                if (rank := _token_rank(name, token, value)) is not None
            ]
            digits = self.digits_of(token)
            if digits is not None and digits in phone_digits:
                candidates.append(Match("phone_number", _rank_within(digits, phone_digits)))
            if not candidates:
                return None
            found.append(min(candidates, key=lambda match: match.rank))
        return Match(found[0].field, max(match.rank for match in found))


def match_customer(query: SearchQuery, customer: Customer) -> Match | None:
    """Why a search finds this customer, or None."""
    fields = {"name": customer.name, "email": customer.email, "code": customer.code}
    return _match(query, fields, customer)


def match_order(query: SearchQuery, order: Order, customer: Customer) -> Match | None:
    """Why a search finds this order of this customer, or None."""
    fields = {
        "order_number": order.number,
        "item": order.item,
        "notes": order.notes,
        "customer_name": customer.name,
        "customer_email": customer.email,
        "customer_code": customer.code,
    }
    return _match(query, fields, customer)


def _match(
    query: SearchQuery, fields: Mapping[str, str | None], customer: Customer
) -> Match | None:
    if customer.phone is None:
        return query.match(fields, phone=None, phone_digits="")
    phone = customer.phone
    return query.match(fields, phone=phone.e164, phone_digits=search_digits(phone))


def _phone_digits(typed: str) -> str | None:
    if not _PHONE_LIKE.fullmatch(typed):
        return None
    digits = "".join(char for char in typed if char in "0123456789")
    return digits if len(digits) >= PHONE_DIGITS_MIN else None


def _token_rank(name: str, token: str, value: str) -> Rank | None:
    if token in value:
        return _rank_within(token, value)
    if name == "order_number" and (symbols := Reference.compact(token)):
        return Rank.SUBSTRING if symbols in Reference.compact(value) else None
    return None


def _rank_within(part: str, value: str) -> Rank:
    return Rank.PREFIX if f" {part}" in f" {value}" else Rank.SUBSTRING


def _same_reference(text: str, number: str) -> bool:
    return bool(symbols := Reference.compact(text)) and symbols == Reference.compact(number)
