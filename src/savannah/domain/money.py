"""Money: exact decimals with two places, in one currency; no float comes near it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from savannah.domain.errors import Refused

AMOUNT_MAX_MINOR: Final = 99_999_999_99
TOTAL_MAX_MINOR: Final = 9_999_999_999_99
QUANTITY_MAX: Final = 100_000
AMOUNT_MAX_CHARS: Final = 20
DEFAULT_CURRENCIES: Final = ("KES", "UGX", "TZS", "RWF", "USD")

_PLAIN: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_WHOLE_ONLY: Final = frozenset({"UGX", "RWF"})  # ISO 4217: no minor unit in use


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in hundredths (`minor`) of one ISO 4217 currency.

    Raises: TypeError, when `minor` is no `int`; so multiplying by a fraction is refused.
    """

    minor: int
    currency: str

    def __post_init__(self) -> None:
        if type(self.minor) is not int:
            raise TypeError(f"minor: must be int, hundredths; not {type(self.minor).__name__}")

    @property
    def amount(self) -> Decimal:
        return Decimal(self.text)  # exact whatever the caller's decimal context

    @property
    def text(self) -> str:
        """The amount with two decimals, as it stands in JSON: `999.99`."""
        return amount_text(self.minor)

    def __str__(self) -> str:
        return f"{self.currency} {self.text}"

    def __mul__(self, quantity: int) -> Money:
        return Money(self.minor * quantity, self.currency)

    @classmethod
    def parse(cls, raw: object, currency: str) -> Money:
        """A unit price as callers write it: a plain decimal string or an integer.

        Raises:
            Refused: `wrong_type`, `amount_not_string`, `invalid_format`, `too_many_decimals`,
                `amount_out_of_range`. Nothing is ever rounded.
        """
        if isinstance(raw, bool):
            raise Refused("wrong_type", "This must be a decimal string such as 999.99")
        if isinstance(raw, float):
            raise Refused("amount_not_string", 'Write fractions as a string, such as "999.99"')
        if isinstance(raw, int):
            whole, fraction = raw, ""
            if raw < 0:
                raise Refused("amount_out_of_range", "The amount must be 0.01 to 99999999.99")
        elif isinstance(raw, Decimal):
            return cls.parse(format(raw, "f"), currency)
        elif isinstance(raw, str):
            if len(raw) > AMOUNT_MAX_CHARS or not _PLAIN.fullmatch(raw):
                raise Refused("invalid_format", "Digits with an optional decimal point only")
            left, _, fraction = raw.partition(".")
            whole = int(left)
        else:
            raise Refused("wrong_type", "This must be a decimal string such as 999.99")
        places = 0 if currency in _WHOLE_ONLY else 2
        if len(fraction) > 2 or (places == 0 and fraction.strip("0")):
            raise Refused("too_many_decimals", f"{currency} amounts have {places} decimals")
        minor = whole * 100 + int(fraction.ljust(2, "0") or 0)
        if not 1 <= minor <= AMOUNT_MAX_MINOR:
            raise Refused("amount_out_of_range", "The amount must be 0.01 to 99999999.99")
        return cls(minor, currency)


def amount_text(minor: int) -> str:
    """Hundredths as a decimal with two places."""
    sign, minor = ("-", -minor) if minor < 0 else ("", minor)
    return f"{sign}{minor // 100}.{minor % 100:02d}"


def average_text(total_minor: int, count: int) -> str | None:
    """The mean with two decimals, half up; None where there is nothing to average."""
    if count == 0:
        return None
    return amount_text((2 * total_minor + count) // (2 * count))


def quantity(value: object) -> int:
    """How many pieces: 1 to 100000.

    Raises:
        Refused: `wrong_type`, `quantity_out_of_range`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused("wrong_type", "This must be a whole number")
    if not 1 <= value <= QUANTITY_MAX:
        raise Refused("quantity_out_of_range", f"The quantity must be 1 to {QUANTITY_MAX}")
    return value


def currency(value: object, *, allowed: Collection[str]) -> str:
    """An ISO 4217 code that this business deals in.

    Raises:
        Refused: `wrong_type`, `unsupported_currency`.
    """
    if not isinstance(value, str):
        raise Refused("wrong_type", "This must be a currency code")
    if value not in allowed:
        raise Refused("unsupported_currency", f"Use one of {', '.join(sorted(allowed))}")
    return value
