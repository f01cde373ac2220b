"""Every way in which Savannah says no.

    SavannahError
    ├── Invalid ................ the caller's fields break rules (all problems at once)
    ├── BadQuery ............... a parameter of a list, search or report breaks a rule
    ├── IdempotencyKeyReused ... the same key came with another body
    ├── NotFound ............... no such thing, or none the caller may know of
    ├── Unauthenticated ........ AuthenticationRequired, InvalidToken, TokenExpired, TokenRevoked,
    │                            InvalidCredentials, InvalidClient
    ├── Denied ................. InsufficientScope, RoleForbidden, AccountDisabled,
    │                            RegistrationClosed
    ├── StaleVersion ........... the caller's revision is not the current one
    ├── Conflict ............... InvalidTransition, OrderNotEditable, OrderNotDeletable,
    │                            CustomerHasOpenOrders, CustomerArchived, CustomerErased,
    │                            CustomerOptedOut, EmailTaken, CodeTaken,
    │                            OrderNumberTaken, NoSmsForStatus,
    │                            NotificationNotDead, IdempotencyInProgress, LastAdmin,
    │                            LastSecret
    ├── Throttled .............. RateLimited, TooManyAttempts, ResendThrottled,
    │                            SmsBudgetExhausted
    └── Unavailable ............ storage cannot answer now; nothing was written

A leaf holds its stable `code` and, as attributes named in `extras`, what the caller needs to
recover. None holds an HTTP status: each door has its own table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, TypeVar

T = TypeVar("T")


class SavannahError(Exception):
    """Something was refused; `code` is stable, `detail` is for people and holds no secret."""

    code: str = "internal_error"
    extras: ClassVar[tuple[str, ...]] = ()

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __reduce__(self) -> tuple[object, ...]:
        # Else copies and pickles would call `__init__` with the text alone, and most take more.
        return _revived, (type(self), self.args), self.__dict__


def _revived(kind: type[BaseException], args: tuple[object, ...]) -> BaseException:
    """A refusal that comes out of a pickle, before its attributes are put back."""
    return kind.__new__(kind, *args)


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One broken field: `field` is its path in the body (`metadata/colour`), "" the whole body.

    Within a step of the path, `~` and `/` are written `~0` and `~1` (RFC 6901 section 3).
    """

    field: str
    code: str
    detail: str

    @classmethod
    def unknown(cls, name: str) -> FieldProblem:
        """A member that nobody asked for; its name is echoed, within reason."""
        step = name[:64].replace("~", "~0").replace("/", "~1")
        return cls(step, "unknown_field", "There is no such field")


class Refused(ValueError):
    """One value breaks one rule; `Problems.check` turns it into a `FieldProblem`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.code, self.detail)


class Invalid(SavannahError):
    """Fields of the request break rules of the domain; a traceback lists them as notes."""

    code = "validation_error"

    def __init__(self, problems: Iterable[FieldProblem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        super().__init__(f"{count} problem{'' if count == 1 else 's'} found")
        for problem in self.problems:
            self.add_note(f"{problem.field or 'all'}: {problem.code}: {problem.detail}")

    @classmethod
    def one(cls, field: str, code: str, detail: str) -> Invalid:
        """The frequent case of a single broken field."""
        return cls([FieldProblem(field, code, detail)])


class Problems:
    """Collects the broken fields of one request, so that all are reported together."""

    def __init__(self) -> None:
        self._found: list[FieldProblem] = []

    def check(self, field: str, rule: Callable[[], T], *, default: T) -> T:
        """Run one field's rule; where it refuses, note that and go on with `default`."""
        try:
            return rule()
        except Refused as refused:
            self.add(field, refused.code, refused.detail)
            return default

    def add(self, field: str, code: str, detail: str) -> None:
        self._found.append(FieldProblem(field, code, detail))

    def add_unknown(self, name: str) -> None:
        self._found.append(FieldProblem.unknown(name))

    def extend(self, invalid: Invalid) -> None:
        self._found.extend(invalid.problems)

    @property
    def found(self) -> tuple[FieldProblem, ...]:
        """What was noted so far."""
        return tuple(self._found)

    def raise_if_any(self) -> None:
        """Raises: Invalid, when anything was noted."""
        if self._found:
            raise Invalid(self._found)


class BadQuery(SavannahError):
    """A parameter of a list, a search or a report breaks a rule."""

    code = "invalid_parameter"

    def __init__(self, parameter: str, detail: str, *, code: str = "invalid_parameter") -> None:
        super().__init__(detail)
        self.parameter = parameter
        self.add_note(f"parameter: {parameter}")
        self.code = code  # one class for all the codes of parameters


class IdempotencyKeyReused(SavannahError):
    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used with a different request")


class NotFound(SavannahError):
    code = "not_found"

    def __init__(self, what: str = "resource") -> None:
        super().__init__(f"No such {what}")
        self.what = what


class Unauthenticated(SavannahError):
    """The caller is not known."""


class AuthenticationRequired(Unauthenticated):
    code = "authentication_required"

    def __init__(self) -> None:
        super().__init__("A bearer access token is required")


class InvalidToken(Unauthenticated):
    code = "invalid_token"

    def __init__(self) -> None:
        super().__init__("The access token is not valid")


class TokenExpired(Unauthenticated):
    code = "token_expired"

    def __init__(self) -> None:
        super().__init__("The access token has expired")


class TokenRevoked(Unauthenticated):
    code = "token_revoked"

    def __init__(self) -> None:
        super().__init__("The access token was revoked")


class InvalidCredentials(Unauthenticated):
    code = "invalid_credentials"

    def __init__(self) -> None:
        super().__init__("Unknown user or wrong password")


class InvalidClient(Unauthenticated):
    code = "invalid_client"

    def __init__(self) -> None:
        super().__init__("Unknown client or wrong client secret")


class Denied(SavannahError):
    """The caller is known and may not do this."""


class InsufficientScope(Denied):
    code = "insufficient_scope"
    extras = ("required_scope",)

    def __init__(self, required_scope: str) -> None:
        super().__init__(f"This needs the scope {required_scope}")
        self.required_scope = required_scope


class RoleForbidden(Denied):
    code = "role_forbidden"


class AccountDisabled(Denied):
    code = "account_disabled"

    def __init__(self) -> None:
        super().__init__("This account is disabled")


class RegistrationClosed(Denied):
    code = "registration_closed"

    def __init__(self) -> None:
        super().__init__("Accounts are created by an administrator here")


class StaleVersion(SavannahError):
    code = "version_conflict"
    extras = ("current_version",)

    def __init__(self, current_version: int) -> None:
        super().__init__("The resource has changed since it was read")
        self.current_version = current_version


class Conflict(SavannahError):
    """The request is well-formed, but the state of things does not allow it."""


class InvalidTransition(Conflict):
    code = "invalid_transition"
    extras = ("current_status", "allowed_transitions")

    def __init__(self, current_status: str, wanted: str, allowed: Iterable[str]) -> None:
        super().__init__(f"A {current_status} order cannot become {wanted}")
        self.current_status = current_status
        self.allowed_transitions = tuple(allowed)


class OrderNotEditable(Conflict):
    code = "order_not_editable"
    extras = ("current_status", "editable_fields")

    def __init__(self, current_status: str, editable_fields: Iterable[str]) -> None:
        super().__init__(f"A {current_status} order does not take this change")
        self.current_status = current_status
        self.editable_fields = tuple(editable_fields)


class OrderNotDeletable(Conflict):
    code = "order_not_deletable"
    extras = ("current_status",)

    def __init__(self, current_status: str) -> None:
        super().__init__("Only pending and cancelled orders can be deleted")
        self.current_status = current_status


class CustomerHasOpenOrders(Conflict):
    code = "customer_has_open_orders"
    extras = ("open_orders",)

    def __init__(self, open_orders: int) -> None:
        super().__init__("The customer still has orders under way")
        self.open_orders = open_orders


class CustomerArchived(Conflict):
    code = "customer_archived"

    def __init__(self) -> None:
        super().__init__("The customer is archived")


class CustomerErased(Conflict):
    code = "customer_erased"

    def __init__(self) -> None:
        super().__init__("The customer's personal data was erased")


class CustomerOptedOut(Conflict):
    code = "customer_opted_out"

    def __init__(self) -> None:
        super().__init__("The customer does not want text messages")


class EmailTaken(Conflict):
    code = "email_taken"

    def __init__(self) -> None:
        super().__init__("Another customer has this e-mail address")


class CodeTaken(Conflict):
    code = "code_taken"

    def __init__(self) -> None:
        super().__init__("Another customer has this code")


class OrderNumberTaken(Conflict):
    """A random order number hit an existing one; the use case draws another."""

    code = "order_number_taken"

    def __init__(self) -> None:
        super().__init__("Another order has this number")


class NoSmsForStatus(Conflict):
    code = "no_sms_for_status"
    extras = ("current_status", "available_events")

    def __init__(self, current_status: str, available_events: Iterable[str]) -> None:
        super().__init__("The order has not reached this event")
        self.current_status = current_status
        self.available_events = tuple(available_events)


class NotificationNotDead(Conflict):
    code = "notification_not_dead"
    extras = ("current_status",)

    def __init__(self, current_status: str) -> None:
        super().__init__("Only a dead message can be replayed")
        self.current_status = current_status


class IdempotencyInProgress(Conflict):
    code = "idempotency_in_progress"
    retry_after = timedelta(seconds=1)

    def __init__(self) -> None:
        super().__init__("The first request with this Idempotency-Key is still running")


class LastAdmin(Conflict):
    code = "last_admin"

    def __init__(self) -> None:
        super().__init__("The last active administrator stays one")


class LastSecret(Conflict):
    code = "last_secret"

    def __init__(self) -> None:
        super().__init__("An app that keeps a secret needs one")


class Throttled(SavannahError):
    """Too much in too short a time; `retry_after` says when it is worth trying again."""

    def __init__(self, detail: str, *, retry_after: timedelta) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class RateLimited(Throttled):
    code = "rate_limited"

    def __init__(
        self, *, retry_after: timedelta, limit: int, remaining: int = 0, reset_after: timedelta
    ) -> None:
        super().__init__("Too many requests", retry_after=retry_after)
        self.limit = limit
        self.remaining = remaining
        self.reset_after = reset_after


class TooManyAttempts(Throttled):
    code = "too_many_attempts"

    def __init__(self, *, retry_after: timedelta) -> None:
        super().__init__(
            "Too many failed attempts; wait before trying again", retry_after=retry_after
        )


class ResendThrottled(Throttled):
    code = "resend_throttled"

    def __init__(self, *, retry_after: timedelta) -> None:
        super().__init__("This order's message was sent again too often", retry_after=retry_after)


class SmsBudgetExhausted(Throttled):
    code = "sms_budget_exhausted"

    def __init__(self, *, retry_after: timedelta) -> None:
        super().__init__("The budget for text messages is used up", retry_after=retry_after)


class Unavailable(SavannahError):
    """A part we depend on cannot answer now; nothing was written and a repeat may succeed."""

    code = "service_unavailable"
    retry_after = timedelta(seconds=5)

    def __init__(self, detail: str = "The service is temporarily unavailable") -> None:
        super().__init__(detail)
