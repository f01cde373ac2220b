"""The rules for a new password, and what is hashed of one."""

from __future__ import annotations

import unicodedata
from functools import partial
from typing import Final

from savannah.domain import text
from savannah.domain.common_passwords import COMMON_PASSWORDS
from savannah.domain.errors import Problems, Refused

PASSWORD_LEAST: Final = 8
PASSWORD_MOST: Final = 128
_SIMILAR_FROM: Final = 4  # shorter names are found in honest passwords by chance


def password_text(value: object) -> str:
    """A new password as it is hashed: NFC, so that two keyboards agree; never trimmed or cut.

    Raises:
        Refused: `wrong_type`, `invalid_format` (a lone surrogate, which no encoding carries, or a
            pile of marks), `password_too_short` when it is empty.
    """
    if not isinstance(value, str):
        raise Refused("wrong_type", "This must be a string")
    if text.is_piled(value) or any(unicodedata.category(char) == "Cs" for char in value):
        raise Refused("invalid_format", "This is not a text that can be stored")
    if not value:
        raise Refused("password_too_short", f"At least {PASSWORD_LEAST} characters are needed")
    return typed_password(value)


def typed_password(typed: str) -> str:
    """A password somebody logs in with, in the form in which it was hashed."""
    return text.nfc(typed)


def password_faults(password: str, *, username: str, email: str | None) -> tuple[Refused, ...]:
    """Everything that is wrong with a new password, so that it can be mended in one go.

    Codes: `password_too_short`, `too_long`, `password_too_common`, `password_too_simple`,
    `password_too_similar`.
    """
    faults: list[Refused] = []
    if len(password) < PASSWORD_LEAST:
        faults.append(
            Refused("password_too_short", f"At least {PASSWORD_LEAST} characters are needed")
        )
    if len(password) > PASSWORD_MOST:
        faults.append(Refused("too_long", f"At most {PASSWORD_MOST} characters are allowed"))
    folded = text.email_key(password)
    if folded in COMMON_PASSWORDS:
        faults.append(Refused("password_too_common", "Many people use this password"))
    if len({_character_class(char) for char in password}) < 2:
        faults.append(
            Refused(
                "password_too_simple",
                "Use at least two of: lower case, upper case, digits, other characters",
            )
        )
    names = (text.email_key(username), text.email_key((email or "").partition("@")[0]))
    if any(len(name) >= _SIMILAR_FROM and name in folded for name in names):
        faults.append(
            Refused("password_too_similar", "It must not contain the user name or e-mail address")
        )
    return tuple(faults)


def new_password(
    problems: Problems,
    name: str,
    password: object,
    confirm_password: object,
    *,
    username: str,
    email: str | None,
) -> str:
    """A password somebody chose, and typed twice unless `confirm_password` is None.

    Everything that is wrong with either goes to `problems`, under `name` or `confirm_password`.
    """
    secret = problems.check(name, partial(password_text, password), default="")
    if not secret:
        return secret
    for refused in password_faults(secret, username=username, email=email):
        problems.add(name, refused.code, refused.detail)
    if confirm_password is not None:
        problems.check("confirm_password", partial(_same, confirm_password, secret), default=None)
    return secret


def _same(confirm_password: object, password: str) -> None:
    if not isinstance(confirm_password, str):
        raise Refused("wrong_type", "This must be a string")
    if typed_password(confirm_password) != password:
        raise Refused("password_mismatch", "The two passwords differ")


def _character_class(char: str) -> str:
    if char.islower():
        return "lower"
    if char.isupper():
        return "upper"
    return "digit" if char.isdecimal() else "other"
