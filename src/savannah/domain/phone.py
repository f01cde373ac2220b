"""Phone numbers as people type them, and the one form in which they are kept (E.164).

Kenyan numbers follow a rule of our own, because the published number plan trails the ranges
operators hand out; other countries are judged by libphonenumber's data. Whom we may text, and
when, is decided in `notification`, not here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

_MAX_TYPED: Final = 32
# Typed punctuation and the blanks of Unicode category Zs. Everything else that is not an ASCII
# digit or a leading plus is refused: letters would otherwise be dialled as a keypad spells them.
_REMOVED: Final = str.maketrans(
    "",
    "",
    "-.() \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u202f\u205f\u3000",
)
_DIGITS: Final = re.compile(r"\+?[0-9]+")
_E164: Final = re.compile(r"\+[1-9][0-9]{5,14}")
_KENYA: Final = "+254"
# 254 written out is Kenya in every region: no country has a mobile number of that shape.
_KENYAN_EXPLICIT: Final = re.compile(r"(?:\+?2540?|00254|000254)([124567][0-9]{8})")
_KENYAN_NATIONAL: Final = re.compile(r"0?([124567][0-9]{8})")

# Calling code -> region and zone, for countries that live in a single zone.
# Source: the countries Africa's Talking is known to serve, and Kenya's neighbours.
_COUNTRIES: Final = {
    "27": ("ZA", "Africa/Johannesburg"),
    "211": ("SS", "Africa/Juba"),
    "221": ("SN", "Africa/Dakar"),
    "225": ("CI", "Africa/Abidjan"),
    "226": ("BF", "Africa/Ouagadougou"),
    "229": ("BJ", "Africa/Porto-Novo"),
    "233": ("GH", "Africa/Accra"),
    "234": ("NG", "Africa/Lagos"),
    "237": ("CM", "Africa/Douala"),
    "250": ("RW", "Africa/Kigali"),
    "251": ("ET", "Africa/Addis_Ababa"),
    "252": ("SO", "Africa/Mogadishu"),
    "254": ("KE", "Africa/Nairobi"),
    "255": ("TZ", "Africa/Dar_es_Salaam"),
    "256": ("UG", "Africa/Kampala"),
    "257": ("BI", "Africa/Bujumbura"),
    "260": ("ZM", "Africa/Lusaka"),
    "263": ("ZW", "Africa/Harare"),
    "264": ("NA", "Africa/Windhoek"),
    "265": ("MW", "Africa/Blantyre"),
    "266": ("LS", "Africa/Maseru"),
    "267": ("BW", "Africa/Gaborone"),
    "268": ("SZ", "Africa/Mbabane"),
}


class PhoneRefusal(StrEnum):
    """Why a typed number is not taken; the values are the field codes callers see."""

    INVALID = "invalid_phone"
    NOT_MOBILE = "phone_not_mobile"


class PhoneRefused(ValueError):
    """The typed text is not a number that can receive a text message.

    `detail` is safe to show and to log: it never repeats the number.
    """

    def __init__(self, refusal: PhoneRefusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal
        self.detail = detail

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.refusal, self.detail)


@dataclass(frozen=True, slots=True, order=True, repr=False)
class PhoneNumber:
    """A number that can receive texts, in E.164.

    `repr` and `str` show the masked form, so that a log line or a traceback cannot leak the
    number; read `e164` where the number itself is meant.
    """

    e164: str

    def __post_init__(self) -> None:
        if not _E164.fullmatch(self.e164):
            raise _invalid()

    @classmethod
    def parse(cls, raw: str, *, region: str = "KE") -> Self:
        """Read a number as somebody typed it.

        Outer white space is dropped, blanks, hyphens, dots and round brackets are ignored.
        `region` (ISO 3166, upper case) owns the numbers typed without a country: its national
        form, and its calling code without the plus. Every other country needs the plus, except
        that 254, 00254 and 000254 mean Kenya everywhere.

        Raises:
            PhoneRefused: not a number, or not one that a text message reaches.

        """
        typed = raw.strip()
        if len(typed) > _MAX_TYPED:
            raise PhoneRefused(
                PhoneRefusal.INVALID, f"A phone number has at most {_MAX_TYPED} characters"
            )
        digits = typed.translate(_REMOVED)
        if not _DIGITS.fullmatch(digits):
            raise PhoneRefused(
                PhoneRefusal.INVALID,
                "A phone number is written with the digits 0-9, blanks, - . ( ) and a leading +",
            )
        kenyan = _KENYAN_EXPLICIT.fullmatch(digits)
        if kenyan is None and region == "KE":
            kenyan = _KENYAN_NATIONAL.fullmatch(digits)
        if kenyan is not None:
            national = kenyan[1]
            if national[0] not in "17":
                raise _not_mobile()
            return cls(_KENYA + national)
        if digits.startswith(_KENYA) or (region == "KE" and not digits.startswith("+")):
            raise _invalid()
        return cls(_foreign(digits, region))

    @classmethod
    def from_e164(cls, e164: str) -> Self:
        """Take a number that was accepted before; only its outer form is checked.

        Raises:
            PhoneRefused: the text is not E.164 at all.

        """
        return cls(e164)

    @property
    def masked(self) -> str:
        """The number as shown to people and in logs: `+2547****3456`."""
        # At least four digits stay hidden, also in the shortest plans (Niue, Saint Helena).
        return f"{self.e164[:5]}****{self.e164[9:][-4:]}"

    @property
    def region(self) -> str | None:
        """The country (ISO 3166), or None where this desk knows no single one."""
        return self._country[0]

    @property
    def time_zone(self) -> str | None:
        """The IANA zone the recipient lives in, or None where it cannot be told."""
        return self._country[1]

    @property
    def _country(self) -> tuple[str, str] | tuple[None, None]:
        # No calling code is the beginning of another one, so at most one length matches.
        for length in (3, 2):
            country = _COUNTRIES.get(self.e164[1 : 1 + length])
            if country is not None:
                return country
        return None, None

    def __repr__(self) -> str:
        return f"PhoneNumber({self.masked})"


def search_digits(phone: PhoneNumber) -> str:
    """The spellings in which a digits search looks for its digits, as a substring of either."""
    international = phone.e164[1:]
    if phone.e164.startswith(_KENYA):
        return f"{international} 0{international[3:]}"
    return international


def _invalid() -> PhoneRefused:
    return PhoneRefused(PhoneRefusal.INVALID, "Not a Kenyan mobile or E.164 number")


def _not_mobile() -> PhoneRefused:
    return PhoneRefused(PhoneRefusal.NOT_MOBILE, "Not a mobile number: a text cannot reach it")


def _foreign(digits: str, region: str) -> str:
    """Judge a number outside Kenya's rule by libphonenumber's data; give its E.164."""
    import phonenumbers

    try:
        number = phonenumbers.parse(digits, None if digits.startswith("+") else region)
    except phonenumbers.NumberParseException as error:
        raise _invalid() from error
    # Without a plus the library also reads the region's exit code, which would reach any country.
    if not digits.startswith("+") and number.country_code != phonenumbers.country_code_for_region(
        region
    ):
        raise _invalid()
    kind = phonenumbers.number_type(number)
    if kind == phonenumbers.PhoneNumberType.UNKNOWN:
        raise _invalid()
    if kind not in (
        phonenumbers.PhoneNumberType.MOBILE,
        phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE,
    ):
        raise _not_mobile()
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
