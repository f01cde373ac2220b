"""One JSON object a line on standard error, the request's id in each, and no personal data.

Everything logs through the standard library; this file alone decides what a line looks like and
what is hidden in it. Which events are worth a line is decided where they happen.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Final

from savannah.application.trace import request_id_var, trace_var
from savannah.domain.text import DIRECTION_SIGNS

HIDDEN: Final = "[hidden]"
_encode: Final = json.JSONEncoder(ensure_ascii=False, default=str).encode
_DOTS: Final = "\u2022" * 4
_SECRET_PARTS: Final = ("password", "token", "secret", "authorization", "apikey", "cookie")
_SECRET_NAMES: Final = frozenset({"text", "messagetext", "body", "form"})
# What Python puts on every record; the rest came with `extra`.
_OWN_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",  # uvicorn's event again, in colours
    "taskName",
}
# Signs that a terminal obeys, or that make a line look like two, or like another.
_STEERING: Final = re.compile(
    f"[\x00-\x1f\x7f-\x9f\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}{DIRECTION_SIGNS}]"
)
_CAUSE: Final = frozenset({"request_id", "trace_id"})
_UNSHOWN: Final = re.compile(
    r"""
    (?P<kept>                                                   # digits that are no phone number
        \b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b       # an id
      | \b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?(?!\d)  # a date, a moment
    )
  | (?P<bearer>\b(?:Bearer|Basic)\s+)[\w.~+/=-]+
  | (?P<jwt>\beyJ[\w-]+\.[\w-]+\.[\w-]*)
  | (?P<callback>/africastalking/)[^/\s"']+
  | (?P<login>://)[^/@\s:]*:[^/\s]+(?=@)                        # user and password in a URL
  | (?P<parameters>\[parameters:).*?\]\s*$                      # what SQLAlchemy adds to its errors
  | (?P<phone>
        (?:\+|%2B)\d(?:[ .()-]{0,2}\d){6,14}(?!\d)              # written with its country
      | (?<![\w.+-])\(?\d(?:[ ()-]{0,2}\d){8,14}(?![\w-])       # any other row of 9 to 15 digits
    )
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)


def mask(text: str) -> str:
    """The text without phone numbers, tokens and passwords; ids and times stay readable."""
    return _UNSHOWN.sub(_hide, text)


def _hide(found: re.Match[str]) -> str:
    kind, value = found.lastgroup, found[0]
    match kind:
        case "kept":
            return value
        case "phone":
            plus = "" if value[0] not in "+%" else "+"
            digits = re.sub(r"\D", "", value.removeprefix("%2B"))
            shown = min(4, len(digits) - 4)
            return f"{plus}{digits[: max(len(digits) - 8, 0)]}{_DOTS}{digits[-shown:]}"
        case "jwt":
            return HIDDEN
        case _:
            return f"{found[kind or 0]}{HIDDEN}"


def _shown(name: str, value: object) -> object:
    """A value as it may stand under that name in a line."""
    return HIDDEN if _is_secret(name) else masked(value)


@lru_cache(maxsize=512)
def _is_secret(name: str) -> bool:
    plain = re.sub(r"[^a-z]", "", name.casefold())
    return plain in _SECRET_NAMES or any(part in plain for part in _SECRET_PARTS)


def masked(value: object) -> object:
    """The value as it may leave the process: what stands under a telling name is hidden."""
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return mask(value)
        case Mapping():
            return {str(key): _shown(str(key), each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [masked(each) for each in value]
        case _:
            return mask(str(value))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What a line says beyond time, level and event."""
    fields: dict[str, object] = {
        name: _shown(name, value)
        for name, value in vars(record).items()
        if name not in _OWN_FIELDS and name not in _CAUSE
    }
    if record.exc_info and record.exc_info[1] is not None:
        fields["exception"] = _traceback(record.exc_info[1], record.exc_info[2])
    if record.stack_info:
        fields["stack"] = mask(record.stack_info)
    return fields


def _traceback(error: BaseException, trace: TracebackType | None) -> str:
    return mask("".join(traceback.format_exception(type(error), error, trace)).rstrip())


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _request_id(record: logging.LogRecord) -> str | None:
    given = vars(record).get("request_id")
    return given if isinstance(given, str) else request_id_var.get()


def _trace_id(record: logging.LogRecord) -> str | None:
    given = vars(record).get("trace_id")
    if isinstance(given, str):
        return given
    trace = trace_var.get()
    return None if trace is None else trace.trace_id


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "timestamp": _moment(record),
            "level": record.levelname.lower(),
            "event": mask(record.getMessage()),
            "logger": record.name,
            "request_id": _request_id(record),
            "trace_id": _trace_id(record),
        }
        for name, value in _fields(record).items():
            line[name if name not in line else f"{name}_"] = value
        encoded = _encode(line)
        if encoded.isascii() and "\x7f" not in encoded:
            return encoded
        return _STEERING.sub(lambda sign: f"\\u{ord(sign[0]):04x}", encoded)


class ConsoleLines(logging.Formatter):
    """A record as a person at a terminal reads it."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        trace = fields.pop("exception", None)
        told = " ".join(f"{name}={value}" for name, value in fields.items())
        moment = datetime.fromtimestamp(record.created, UTC).astimezone()
        line = f"{moment:%H:%M:%S} {record.levelname:<8} {mask(record.getMessage())}  {told}"
        lines = [line.rstrip(), *(str(trace).split("\n") if trace else ())]
        return "\n".join(_STEERING.sub(lambda sign: ascii(sign[0])[1:-1], each) for each in lines)


def configure(*, level: str, format_: str | None) -> None:
    """Send everything that is logged to standard error.

    Libraries speak from `WARNING` up: at `INFO` some of them write whole addresses, tokens
    included.

    Args:
        level: from which level on Savannah itself speaks.
        format_: `json` or `console`; None chooses by whether standard error is a terminal.
    """
    chosen = format_ or ("console" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ConsoleLines() if chosen == "console" else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    logging.getLogger("savannah").setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.access").disabled = True  # the HTTP door writes its own lines
    logging.captureWarnings(capture=True)
    # No line says thread, process or place in the code, and finding those out takes a third of the
    # time of one. Source: https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if hasattr(logging, "logAsyncioTasks"):
        logging.logAsyncioTasks = False
