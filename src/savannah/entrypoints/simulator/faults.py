"""What can go wrong at the simulated gateway: switches, magic numbers, lives of a message.

Data and lookups only; `gateway.py` acts on them. The package docstring has the table for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final


class Mode(StrEnum):
    """How the gateway answers a request to send, as a whole."""

    NORMAL = "normal"
    SLOW = "slow"
    HANG = "hang"
    LOST_ANSWER = "lost_answer"
    RUBBISH = "rubbish"
    HTTP_400 = "http_400"
    HTTP_401 = "http_401"
    HTTP_409 = "http_409"
    HTTP_429 = "http_429"
    HTTP_500 = "http_500"
    HTML_502 = "html_502"
    HTTP_503 = "http_503"
    INSUFFICIENT_BALANCE = "insufficient_balance"
    INVALID_SENDER = "invalid_sender"


class ReportMode(StrEnum):
    """What becomes of an accepted message, and how its delivery reports arrive."""

    NORMAL = "normal"
    DELAYED = "delayed"
    DUPLICATED = "duplicated"
    OUT_OF_ORDER = "out_of_order"
    MISSING = "missing"
    NEVER_FINAL = "never_final"
    EARLY = "early"
    UNKNOWN_STATUS = "unknown_status"
    FAILED = "failed"
    REJECTED = "rejected"
    BLACKLISTED = "blacklisted"
    ABSENT = "absent"
    ABSENT_THEN_DELIVERED = "absent_then_delivered"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one recipient of a send is refused; `code` None is an old answer without one."""

    code: int | None
    name: str


REJECTIONS: Final[Mapping[int, Rejection]] = {
    code: Rejection(code, name)
    for code, name in (
        (401, "RiskHold"),
        (402, "InvalidSenderId"),
        (403, "InvalidPhoneNumber"),
        (404, "UnsupportedNumberType"),
        (405, "InsufficientBalance"),
        (406, "UserInBlacklist"),
        (407, "CouldNotRoute"),
        (409, "DoNotDisturbRejection"),
        (500, "InternalServerError"),
        (501, "GatewayError"),
        (502, "RejectedByGateway"),
    )
}


@dataclass(frozen=True, slots=True)
class Report:
    """One delivery report of a message's life."""

    status: str
    failure_reason: str | None = None


_SENT: Final = Report("Sent")
_SUCCESS: Final = Report("Success")

# What happens to the message, in the order it is reported. MISSING lives the same life in silence.
LIVES: Final[Mapping[ReportMode, tuple[Report, ...]]] = {
    ReportMode.NORMAL: (_SENT, _SUCCESS),
    ReportMode.DELAYED: (_SENT, _SUCCESS),
    ReportMode.DUPLICATED: (_SENT, _SENT, _SUCCESS, _SUCCESS),
    ReportMode.OUT_OF_ORDER: (_SUCCESS, _SENT),
    ReportMode.MISSING: (_SENT, _SUCCESS),
    ReportMode.NEVER_FINAL: (_SENT,),
    ReportMode.EARLY: (_SENT, _SUCCESS),
    ReportMode.UNKNOWN_STATUS: (_SENT, Report("HeldAtCustoms")),
    ReportMode.FAILED: (_SENT, Report("Failed", "DeliveryFailure")),
    ReportMode.REJECTED: (Report("Rejected", "NotNetworkSubcriber"),),  # the vendor's spelling
    ReportMode.BLACKLISTED: (Report("Rejected", "UserInBlackList"),),
    ReportMode.ABSENT: (_SENT, Report("AbsentSubscriber")),
    ReportMode.ABSENT_THEN_DELIVERED: (_SENT, Report("AbsentSubscriber"), _SUCCESS),
    ReportMode.EXPIRED: (_SENT, Report("Expired")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Magic:
    """What numbers with a certain ending do; None leaves that part to the switches."""

    meaning: str
    rejection: Rejection | None = None
    mode: Mode | None = None
    report_mode: ReportMode | None = None
    accepted_code: int | None = None
    left_out: bool = False


ENDING_DIGITS: Final = 6
ORDINARY: Final = Magic(meaning="accepted, then reports Sent and Success")


def _mode(mode: Mode, meaning: str) -> Magic:
    return Magic(meaning=meaning, mode=mode)


def _life(report_mode: ReportMode, meaning: str) -> Magic:
    return Magic(meaning=meaning, report_mode=report_mode)


MAGIC: Final[Mapping[str, Magic]] = {
    "000100": Magic(meaning="accepted with code 100 Processed", accepted_code=100),
    "000102": Magic(meaning="accepted with code 102 Queued", accepted_code=102),
    **{
        f"000{code}": Magic(meaning=f"refused: {code} {rejection.name}", rejection=rejection)
        for code, rejection in REJECTIONS.items()
    },
    "000997": Magic(meaning="left out of the answer's recipients", left_out=True),
    "000998": Magic(
        meaning="refused without a status code", rejection=Rejection(None, "Could Not Send")
    ),
    "000999": Magic(
        meaning="refused with a code nobody knows: 999", rejection=Rejection(999, "Unheard")
    ),
    "001400": _mode(Mode.HTTP_400, "HTTP 400, text"),
    "001401": _mode(Mode.HTTP_401, "HTTP 401, text"),
    "001402": _mode(Mode.INVALID_SENDER, "HTTP 201, InvalidSenderId and no recipients"),
    "001405": _mode(Mode.INSUFFICIENT_BALANCE, "HTTP 201, every recipient refused with 405"),
    "001409": _mode(Mode.HTTP_409, "HTTP 409, JSON, every recipient refused with 409"),
    "001429": _mode(Mode.HTTP_429, "HTTP 429, text"),
    "001500": _mode(Mode.HTTP_500, "HTTP 500, text"),
    "001502": _mode(Mode.HTML_502, "HTTP 502, an HTML page"),
    "001503": _mode(Mode.HTTP_503, "HTTP 503, text"),
    "002001": _mode(Mode.SLOW, "accepted, answered slowly"),
    "002002": _mode(Mode.HANG, "no answer for long; not accepted if the caller leaves"),
    "002003": _mode(Mode.LOST_ANSWER, "accepted, then the connection breaks in mid-answer"),
    "002004": _mode(Mode.RUBBISH, "accepted, then an unreadable HTTP 201"),
    "003001": _life(ReportMode.FAILED, "reports Sent, Failed (DeliveryFailure)"),
    "003002": _life(ReportMode.REJECTED, "report Rejected (NotNetworkSubcriber)"),
    "003003": _life(ReportMode.ABSENT, "reports Sent, AbsentSubscriber"),
    "003004": _life(ReportMode.EXPIRED, "reports Sent, Expired"),
    "003005": _life(ReportMode.UNKNOWN_STATUS, "reports Sent, HeldAtCustoms (an unknown word)"),
    "003006": _life(ReportMode.MISSING, "delivered, but no report ever comes"),
    "003007": _life(ReportMode.NEVER_FINAL, "report Sent, then silence"),
    "003008": _life(ReportMode.DUPLICATED, "every report twice"),
    "003009": _life(ReportMode.OUT_OF_ORDER, "report Success before Sent"),
    "003010": _life(ReportMode.EARLY, "both reports before the answer to the send"),
    "003011": _life(ReportMode.DELAYED, "both reports very late"),
    "003012": _life(ReportMode.ABSENT_THEN_DELIVERED, "reports Sent, AbsentSubscriber, Success"),
    "003013": _life(ReportMode.BLACKLISTED, "report Rejected (UserInBlackList)"),
}


def magic_of(number: str) -> Magic:
    """What this number does by its last six digits."""
    return MAGIC.get(number[-ENDING_DIGITS:], ORDINARY)


@dataclass(slots=True, kw_only=True)
class Faults:
    """The switches: they hold for every number without a magic ending."""

    mode: Mode = Mode.NORMAL
    times: int | None = None  # how many more sends the mode holds for; None: until it is changed
    report_mode: ReportMode = ReportMode.NORMAL
    slow_s: float = 3.0
    hang_s: float = 60.0
    report_delay_s: float = 0.5
    late_s: float = 30.0

    def turn(self, switches: Mapping[str, object]) -> None:
        """Set the named switches, all or none.

        Raises:
            ValueError: an unknown switch or a value it cannot take; the text names it.
        """
        checked = {name: _switch_value(name, value) for name, value in switches.items()}
        if "mode" in checked and "times" not in checked:
            checked["times"] = None
        for name, value in checked.items():
            setattr(self, name, value)

    def mode_of_next_send(self) -> Mode:
        """The mode for one send; uses up one of its `times`."""
        mode = self.mode
        if self.times is not None and mode is not Mode.NORMAL:
            self.times -= 1
            if self.times <= 0:
                self.mode, self.times = Mode.NORMAL, None
        return mode

    def as_json(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


_LONGEST_S: Final = 3600.0


def _switch_value(name: str, value: object) -> object:
    match name:
        case "mode" | "report_mode":
            kind = Mode if name == "mode" else ReportMode
            if not isinstance(value, str) or value not in set(kind):
                raise ValueError(f"{name} must be one of: {', '.join(kind)}")
            return kind(value)
        case "times":
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError("times must be null or a whole number from 1")
            return value
        case "slow_s" | "hang_s" | "report_delay_s" | "late_s":
            if type(value) in {int, float} and 0 <= (seconds := float(str(value))) <= _LONGEST_S:
                return seconds
            raise ValueError(f"{name} must be a number of seconds from 0 to {_LONGEST_S:.0f}")
        case _:
            raise ValueError(f"there is no switch called {name[:40]!r}")
