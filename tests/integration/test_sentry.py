"""What the real Sentry SDK sends over a socket when the data is hostile."""

from __future__ import annotations

import subprocess
import sys

import pytest

from collectors import collecting

SCRIPT = """
import logging, sys
import sentry_sdk
from savannah.application.trace import TraceContext, request_id_var, trace_var
from savannah.entrypoints import sentry

sentry.start(sys.argv[1], debug=False)
log = logging.getLogger("savannah.test")
request_id_var.set("till-3-0001")
trace_var.set(TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"))
phone, text, token = "+254700123456", "Hi Amina, your ring is ready", "eyJhbGciOi.eyJzdWIi.c2ln"

def fails(secret_argument):
    local = f"{phone} {text} {token}"
    raise ValueError(f"cannot send {text!r} to {phone} with {token}")

try:
    try:
        fails("hunter2secret")
    except ValueError as error:
        raise RuntimeError(f"while texting {phone}: {text}") from error
except RuntimeError:
    log.exception(
        "a text to %s failed: %s", phone, text,
        extra={"phone": phone, "text": text, "access_token": token, "body": text,
               "deep": {"password": "hunter2secret", "to": [phone]}, "order": "ORD-7K3Q9D"},
    )
sentry_sdk.set_user({"id": phone, "email": "amina@example.com"})
sentry_sdk.set_tag("phone", phone)
sentry_sdk.set_context("message", {"text": text})
sentry_sdk.add_breadcrumb(message=f"{phone} {text}")
log.info("to %s: %s", phone, text)
log.error("the second failure")
sentry_sdk.flush(5)
raise SystemExit(0)
"""
SECRETS = (
    "700123456",
    "your ring is ready",
    "eyJhbGciOi",
    "hunter2secret",
    "amina@example.com",
)


@pytest.fixture(scope="module")
def collector():
    with collecting() as collector:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, collector.dsn, "--password=hunter2secret"],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        yield collector


def test_no_phone_number_text_or_token_leaves_whatever_an_error_carries(collector):
    assert len(collector.events()) == 2
    for secret in SECRETS:
        assert secret.encode() not in collector.everything
    paths = {path for path, _ in collector.posts}
    assert paths == {"/api/42/envelope/"}


def test_an_event_says_what_kind_of_fault_it_is_where_and_of_which_request(collector):
    event, second = collector.events()
    assert event["tags"] == {
        "request_id": "till-3-0001",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }
    assert event["logentry"] == {"message": "a text to %s failed: %s"}
    assert event["extra"]["order"] == "ORD-7K3Q9D"
    assert event["extra"]["phone"].endswith("3456")
    cause, error = event["exception"]["values"]
    assert (cause["type"], error["type"]) == ("ValueError", "RuntimeError")
    assert cause["stacktrace"]["frames"][-1]["function"] == "fails"
    assert set(cause["stacktrace"]["frames"][-1]) <= {
        "filename",
        "module",
        "function",
        "lineno",
        "in_app",
    }
    assert event["environment"] == "production"
    assert second["logentry"]["message"] == "the second failure"
    assert "user" not in second
    assert "breadcrumbs" not in second
