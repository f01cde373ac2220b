"""What a text field may hold: trimming, control characters, lengths; e-mail and metadata rules.

Text is stored as it came (NFC, trimmed) and escaped where it is rendered.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar
from uuid import UUID

from savannah.domain.errors import Refused

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Choice = TypeVar("Choice", bound=StrEnum)

EMAIL_MAX: Final = 254
METADATA_MAX_PAIRS: Final = 20
METADATA_MAX_KEY: Final = 40
METADATA_MAX_VALUE: Final = 500
NOTES_MAX: Final = 2000

# More marks than any language sets on one letter (UAX #15 section 13). Normalising sorts them, in a
# time that grows with the square of their number.
_MARKS_MOST: Final = 30
# Invisible signs that change the direction of what follows: a name with one could rewrite a text.
DIRECTION_SIGNS: Final = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

# Practical address form: one @, no blanks, a domain of labels with a dot. RFC 5321 length limits.
_EMAIL: Final = re.compile(
    r"[^\s@<>()\[\],;:\\\"]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W\d_][\w-]{0,61}[^\W_]",
)


def clean(value: object, *, most: int, least: int = 1, multiline: bool = False) -> str:
    """NFC text without outer blanks, of `least` to `most` code points.

    Raises:
        Refused: `wrong_type`, `invalid_format` (a control character, or a pile of marks), `blank`,
            `too_short`, `too_long`.
    """
    if not isinstance(value, str):
        raise Refused("wrong_type", "This must be a string")
    if is_piled(value):
        raise Refused("invalid_format", "Too many marks follow one another")
    text = unicodedata.normalize("NFC", value).strip()
    for char in text:
        # Cc: control; Cs: lone surrogates, which no encoding can carry.
        if unicodedata.category(char) in ("Cc", "Cs") and not (multiline and char in "\n\t"):
            raise Refused("invalid_format", "Control characters are not allowed here")
    if not text and least > 0:
        raise Refused("blank", "This must not be blank")
    if len(text) < least:
        raise Refused("too_short", f"At least {least} characters are needed")
    if len(text) > most:
        raise Refused("too_long", f"At most {most} characters are allowed")
    return text


def is_piled(text: str) -> bool:
    """Whether so many marks follow one another that nobody has written this."""
    marks = 0
    for char in "" if text.isascii() else text:
        # Not by their combining class: some without one are made of marks that have one.
        marks = marks + 1 if unicodedata.category(char).startswith("M") else 0
        if marks > _MARKS_MOST:
            return True
    return False


def nfc(text: str) -> str:
    """The composed form; a pile of marks, which no stored text has, stays as it is."""
    return text if is_piled(text) else unicodedata.normalize("NFC", text)


def notes(value: object) -> str:
    """Free text of up to 2000 characters; line ends and tabs are allowed.

    Raises:
        Refused: as `clean`.
    """
    return clean(value, most=NOTES_MAX, least=0, multiline=True)


def email(value: object) -> str:
    """An e-mail address, kept as typed.

    Raises:
        Refused: `invalid_email`, or as `clean`.
    """
    address = clean(value, most=EMAIL_MAX)
    local = address.partition("@")[0]
    if not _EMAIL.fullmatch(address) or ".." in address or local != local.strip("."):
        raise Refused("invalid_email", "Not an e-mail address")
    return address


def email_key(address: str) -> str:
    """What two addresses share when they count as the same one."""
    return nfc(address.casefold())


def metadata(value: object, *, onto: Mapping[str, str] | None = None) -> dict[str, str]:
    """String pairs merged onto the present ones; a null value removes its key.

    Raises:
        Refused: `wrong_type`, `blank`, `too_long`, `invalid_format`.
    """
    if not isinstance(value, Mapping):
        raise Refused("wrong_type", "This must be an object of string pairs")
    merged = dict(onto or {})
    for raw_key, raw_value in value.items():
        key = clean(raw_key, most=METADATA_MAX_KEY)
        if raw_value is None and onto is not None:
            merged.pop(key, None)
            continue
        merged[key] = clean(raw_value, most=METADATA_MAX_VALUE, least=0, multiline=True)
    if len(merged) > METADATA_MAX_PAIRS:
        raise Refused("too_long", f"At most {METADATA_MAX_PAIRS} pairs are allowed")
    return merged


def flag(value: object) -> bool:
    """A real boolean; 0, 1 and "true" are not.

    Raises:
        Refused: `null_not_allowed`, `wrong_type`.
    """
    if value is None:
        raise Refused("null_not_allowed", "This cannot be null")
    if not isinstance(value, bool):
        raise Refused("wrong_type", "This must be true or false")
    return value


def choice(value: object, among: type[Choice]) -> Choice:
    """One of a fixed set of words.

    Raises:
        Refused: `wrong_type`, `invalid_choice`.
    """
    if not isinstance(value, str):
        raise Refused("wrong_type", "This must be a string")
    try:
        return among(value)
    except ValueError:
        raise Refused("invalid_choice", f"Use one of {', '.join(among)}") from None


def uuid(value: str) -> UUID:
    """A UUID in its usual text form, in any case (RFC 9562 section 4).

    Raises:
        ValueError: it is none; braces, `urn:` and missing dashes are not accepted.
    """
    if not _UUID.fullmatch(value):
        raise ValueError("not a UUID")
    return UUID(value)
