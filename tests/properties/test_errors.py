"""Every refusal: its code, what it hands over for recovery, and its place in the drawn tree."""

import copy
import inspect
import re
import traceback
from datetime import timedelta
from pickle import dumps, loads

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savannah.domain import errors
from savannah.domain.errors import (
    BadQuery,
    FieldProblem,
    Invalid,
    Problems,
    Refused,
    SavannahError,
)

SECOND = timedelta(seconds=1)

# One of each leaf, its stable code, and what a caller gets to recover.
LEAVES = [
    (Invalid.one("name", "blank", "x"), "validation_error", {}),
    (BadQuery("limit", "x"), "invalid_parameter", {}),
    (BadQuery("q", "x", code="query_too_short"), "query_too_short", {}),
    (errors.IdempotencyKeyReused(), "idempotency_key_reused", {}),
    (errors.NotFound("order"), "not_found", {}),
    (errors.AuthenticationRequired(), "authentication_required", {}),
    (errors.InvalidToken(), "invalid_token", {}),
    (errors.TokenExpired(), "token_expired", {}),
    (errors.TokenRevoked(), "token_revoked", {}),
    (errors.InvalidCredentials(), "invalid_credentials", {}),
    (errors.InvalidClient(), "invalid_client", {}),
    (errors.InsufficientScope("a:b"), "insufficient_scope", {"required_scope": "a:b"}),
    (errors.RoleForbidden("x"), "role_forbidden", {}),
    (errors.AccountDisabled(), "account_disabled", {}),
    (errors.RegistrationClosed(), "registration_closed", {}),
    (errors.StaleVersion(7), "version_conflict", {"current_version": 7}),
    (
        errors.InvalidTransition("pending", "delivered", ["processing"]),
        "invalid_transition",
        {"current_status": "pending", "allowed_transitions": ("processing",)},
    ),
    (
        errors.OrderNotEditable("shipped", ["notes"]),
        "order_not_editable",
        {"current_status": "shipped", "editable_fields": ("notes",)},
    ),
    (
        errors.OrderNotDeletable("shipped"),
        "order_not_deletable",
        {"current_status": "shipped"},
    ),
    (errors.CustomerHasOpenOrders(3), "customer_has_open_orders", {"open_orders": 3}),
    (errors.CustomerArchived(), "customer_archived", {}),
    (errors.CustomerErased(), "customer_erased", {}),
    (errors.CustomerOptedOut(), "customer_opted_out", {}),
    (errors.EmailTaken(), "email_taken", {}),
    (errors.CodeTaken(), "code_taken", {}),
    (errors.OrderNumberTaken(), "order_number_taken", {}),
    (
        errors.NoSmsForStatus("pending", ["order_created"]),
        "no_sms_for_status",
        {"current_status": "pending", "available_events": ("order_created",)},
    ),
    (errors.NotificationNotDead("sent"), "notification_not_dead", {"current_status": "sent"}),
    (errors.IdempotencyInProgress(), "idempotency_in_progress", {}),
    (errors.LastAdmin(), "last_admin", {}),
    (errors.LastSecret(), "last_secret", {}),
    (
        errors.RateLimited(retry_after=SECOND, limit=5, reset_after=SECOND),
        "rate_limited",
        {},
    ),
    (errors.TooManyAttempts(retry_after=SECOND), "too_many_attempts", {}),
    (errors.ResendThrottled(retry_after=SECOND), "resend_throttled", {}),
    (errors.SmsBudgetExhausted(retry_after=SECOND), "sms_budget_exhausted", {}),
    (errors.Unavailable(), "service_unavailable", {}),
]


KINDS = {
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, SavannahError)
}


def test_every_refusal_is_written_down_here():
    branches = {base for kind in KINDS for base in kind.__bases__}
    assert {type(refusal) for refusal, *_ in LEAVES} == KINDS - branches


@pytest.mark.parametrize(("refusal", "code", "extras"), LEAVES, ids=lambda each: str(each)[:40])
def test_a_refusal_has_a_stable_code_and_what_is_needed_to_recover(refusal, code, extras):
    assert refusal.code == code
    assert {name: getattr(refusal, name) for name in refusal.extras} == extras
    assert refusal.detail == str(refusal)
    assert refusal.detail


@pytest.mark.parametrize(
    "kind", [errors.Throttled, errors.IdempotencyInProgress, errors.Unavailable]
)
def test_what_passes_by_itself_says_when_to_come_back(kind):
    for refusal, *_ in LEAVES:
        if isinstance(refusal, kind):
            assert refusal.retry_after >= SECOND


def test_a_rate_limit_tells_its_state():
    limited = errors.RateLimited(retry_after=SECOND, limit=5, reset_after=2 * SECOND)
    assert (limited.limit, limited.remaining, limited.reset_after) == (5, 0, 2 * SECOND)


def test_the_tree_in_the_module_names_every_refusal():
    drawn = set(re.findall(r"\b[A-Z]\w+", errors.__doc__))
    assert {kind.__name__ for kind in KINDS} <= drawn


def test_no_refusal_speaks_of_http():
    for refusal, *_ in LEAVES:
        assert not hasattr(refusal, "status")
        assert "HTTP" not in refusal.detail


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda it: loads(dumps(it))])
@pytest.mark.parametrize(
    "refusal", [*(each for each, *_ in LEAVES), Refused("blank", "x")], ids=str
)
def test_a_refusal_is_the_same_after_a_copy_or_in_another_process(refusal, again):
    """A pool of processes hands over what was raised in pickled form."""
    other = again(refusal)
    assert (type(other), other.args, vars(other)) == (type(refusal), refusal.args, vars(refusal))


def test_a_traceback_names_the_broken_fields_and_the_parameter():
    invalid = Invalid([FieldProblem("name", "blank", "x"), FieldProblem("", "wrong_type", "y")])
    told = traceback.format_exception_only(invalid)
    assert [line.strip() for line in told[1:]] == ["name: blank: x", "all: wrong_type: y"]
    assert "parameter: limit" in "".join(traceback.format_exception_only(BadQuery("limit", "x")))


def test_what_was_not_found_is_named_by_kind_only():
    assert errors.NotFound().detail == "No such resource"
    assert errors.NotFound("order").what == "order"


def test_a_parameter_names_itself():
    assert BadQuery("limit", "x").parameter == "limit"


# Problems


def refuse(code):
    raise Refused(code, f"because of {code}")


@given(st.lists(st.tuples(st.text(max_size=5), st.none() | st.text(min_size=1, max_size=5))))
def test_all_broken_fields_are_told_together_in_the_order_they_were_met(fields):
    problems = Problems()
    for field, code in fields:
        rule = (lambda: "fine") if code is None else (lambda code=code: refuse(code))
        assert problems.check(field, rule, default="nothing") == ("nothing" if code else "fine")
    broken = [FieldProblem(field, code, f"because of {code}") for field, code in fields if code]
    if not broken:
        problems.raise_if_any()
        return
    with pytest.raises(Invalid) as invalid:
        problems.raise_if_any()
    assert list(invalid.value.problems) == broken
    assert invalid.value.detail == f"{len(broken)} problem{'s' * (len(broken) > 1)} found"


def test_the_problems_of_two_parts_are_one_answer():
    problems = Problems()
    problems.add("customer", "customer_not_found", "x")
    problems.extend(Invalid.one("item", "blank", "x"))
    with pytest.raises(Invalid) as invalid:
        problems.raise_if_any()
    assert [problem.field for problem in invalid.value.problems] == ["customer", "item"]


def test_an_error_that_is_no_refusal_passes_through():
    with pytest.raises(ZeroDivisionError):
        Problems().check("field", lambda: 1 // 0, default=None)
