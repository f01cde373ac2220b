"""The error tree, the codes of the door, and the table that turns both into problem documents."""

import ast
import inspect
from datetime import timedelta
from pathlib import Path

import pytest

import savannah
from savannah.domain import errors
from savannah.domain.errors import Invalid, SavannahError
from savannah.entrypoints.http import problems

# What clients rely on: the status under which each code comes.
PROMISED = {
    400: {
        "malformed_json",
        "unknown_parameter",
        "invalid_parameter",
        "missing_parameter",
        "invalid_uuid",
        "invalid_cursor",
        "query_too_short",
        "range_too_large",
        "invalid_idempotency_key",
        "invalid_host",
        "bad_request",
    },
    401: {
        "authentication_required",
        "invalid_token",
        "token_expired",
        "token_revoked",
        "invalid_credentials",
        "invalid_client",
    },
    403: {"insufficient_scope", "role_forbidden", "account_disabled", "registration_closed"},
    404: {"not_found"},
    405: {"method_not_allowed"},
    409: {
        "invalid_transition",
        "order_not_editable",
        "order_not_deletable",
        "customer_has_open_orders",
        "customer_archived",
        "customer_erased",
        "email_taken",
        "code_taken",
        "customer_opted_out",
        "no_sms_for_status",
        "idempotency_in_progress",
        "last_admin",
        "last_secret",
        "notification_not_dead",
        "order_number_taken",
    },
    412: {"version_conflict"},
    413: {"body_too_large"},
    415: {"unsupported_media_type"},
    422: {"validation_error", "idempotency_key_reused"},
    428: {"precondition_required"},
    429: {"rate_limited", "too_many_attempts", "resend_throttled", "sms_budget_exhausted"},
    500: {"internal_error"},
    503: {"service_unavailable"},
}
STATUS = {code: status for status, codes in PROMISED.items() for code in codes}


def family(kind):
    yield kind
    for each in kind.__subclasses__():
        yield from family(each)


KINDS = sorted(set(family(SavannahError)), key=lambda kind: kind.__name__)
LEAVES = [kind for kind in KINDS if not kind.__subclasses__()]
SAMPLES = {
    str: "pending",
    int: 3,
    timedelta: timedelta(seconds=2.5),
    "Iterable[str]": ["shipped"],
    "Iterable[FieldProblem]": [],
}


def calls(name):
    """Every call of that name in the source."""
    for path in Path(savannah.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == name:
                yield node


def sample(kind):
    """A refusal of that kind."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    named = {str(key if isinstance(key, str) else key.__name__): v for key, v in SAMPLES.items()}
    positional, keyword = [], {}
    for each in parameters:
        if each.default is not inspect.Parameter.empty:
            continue
        if each.kind is inspect.Parameter.KEYWORD_ONLY:
            keyword[each.name] = named[each.annotation]
        else:
            positional.append(named[each.annotation])
    return kind(*positional, **keyword)


def test_every_promised_code_has_a_title_and_no_other():
    assert set(problems.TITLES) == set(STATUS)
    for title, advice in problems.TITLES.values():
        assert title[0].isupper()
        assert title[-1] != "."
        assert advice[-1] == "."
        assert advice.count("`") % 2 == 0
    titles = [title for title, _ in problems.TITLES.values()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_refusal_has_a_code_with_the_promised_status(kind):
    assert "code" in vars(kind)
    error = sample(kind)
    assert problems.status_of(error) == STATUS[error.code]
    for name in kind.extras:
        assert getattr(error, name) is not None


def test_no_two_refusals_share_a_code():
    codes = [kind.code for kind in LEAVES]
    assert len(set(codes)) == len(codes)


def test_the_drawing_of_the_error_tree_is_the_tree():
    drawn = errors.__doc__
    for kind in KINDS:
        assert kind.__name__ in drawn, kind


def test_every_refusal_of_the_door_itself_has_the_promised_status():
    found = {(call.args[0].value, call.args[1].value) for call in calls("DoorError")}
    assert found
    for status, code in found:
        assert STATUS[code] == status


def test_every_code_of_a_parameter_is_a_promised_one():
    codes = {
        keyword.value.value
        for call in calls("BadQuery")
        for keyword in call.keywords
        if keyword.arg == "code"
    }
    assert codes
    assert codes <= PROMISED[400]


def test_every_refusal_of_the_framework_has_a_promised_status():
    for status, code in problems._FRAMEWORK_CODES.items():
        assert STATUS[code] == status


def test_entries_point_into_the_body():
    assert problems.pointer("") == "#"
    assert problems.pointer("metadata/colour") == "#/metadata/colour"
    members = problems._members(Invalid.one("", "wrong_type", "no object"))
    assert members["errors"][0]["pointer"] == "#"


def test_waits_are_told_in_whole_seconds_and_never_as_none():
    for seconds, told in ((0, "1"), (0.2, "1"), (2, "2"), (2.001, "3")):
        assert problems._seconds(seconds) == told
