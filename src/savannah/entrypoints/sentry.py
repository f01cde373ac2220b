"""Errors for Sentry, when a DSN is set; only what names the fault, nothing of whom it struck.

Needs the extra `sentry`; imported only where a DSN is set. What is logged from `ERROR` up becomes
an event, so what deserves one is decided where it is logged. The masked text of an exception is in
the log, under the request id that the event carries.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, cast

import sentry_sdk
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.excepthook import ExcepthookIntegration
from sentry_sdk.integrations.logging import LoggingIntegration

from savannah.application.trace import request_id_var, trace_var
from savannah.entrypoints.logs import masked

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

# An event is built from these members alone: one that the SDK adds some day stays out.
_KEPT: Final = frozenset(
    {
        "event_id",
        "timestamp",
        "level",
        "logger",
        "platform",
        "release",
        "environment",
        "server_name",
        "sdk",
        "fingerprint",
    }
)
_FRAME: Final = frozenset({"filename", "module", "function", "lineno", "colno", "in_app"})
_UNTOLD: Final = "in the log, under this request id"


def start(dsn: str, *, debug: bool) -> None:
    """Report errors of this process from now on."""
    sentry_sdk.init(
        dsn=dsn,
        release=version("savannah"),
        environment="development" if debug else "production",
        # No others: they would patch our libraries and record what passes through.
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            LoggingIntegration(level=None, event_level=logging.ERROR),
            ExcepthookIntegration(),
            AtexitIntegration(callback=lambda *_: None),
            DedupeIntegration(),
        ],
        before_send=scrubbed,
        max_breadcrumbs=0,
        send_default_pii=False,
        include_local_variables=False,
        include_source_context=False,
        max_request_body_size="never",
        send_client_reports=False,
        auto_session_tracking=False,
    )


def scrubbed(event: Event, hint: Hint) -> Event | None:
    """What may leave of an event: the kind of fault and where it is, never a value."""
    del hint
    kept: dict[str, Any] = {name: value for name, value in event.items() if name in _KEPT}
    trace = trace_var.get()
    kept["tags"] = masked(
        {
            "request_id": request_id_var.get() or "none",
            "trace_id": "none" if trace is None else trace.trace_id,
        }
    )
    entry = event.get("logentry")
    if isinstance(entry, Mapping):
        # The template: the arguments that go into it stay here.
        kept["logentry"] = {"message": masked(str(entry.get("message", "")))}
    extra = event.get("extra")
    if isinstance(extra, Mapping):
        kept["extra"] = masked({name: value for name, value in extra.items() if name != "sys.argv"})
    raised = event.get("exception")
    if isinstance(raised, Mapping):
        kept["exception"] = {
            "values": [_exception(each) for each in raised.get("values") or () if each]
        }
    return cast("Event", kept)


def _exception(raised: Mapping[str, Any]) -> dict[str, Any]:
    stack = raised.get("stacktrace") or {}
    return {
        "type": raised.get("type"),
        "module": raised.get("module"),
        "value": _UNTOLD,
        "mechanism": {
            "type": (raised.get("mechanism") or {}).get("type", "generic"),
            "handled": (raised.get("mechanism") or {}).get("handled", True),
        },
        "stacktrace": {
            "frames": [
                {name: value for name, value in frame.items() if name in _FRAME}
                for frame in stack.get("frames") or ()
            ]
        },
    }
