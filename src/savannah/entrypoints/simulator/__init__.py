"""A simulated Africa's Talking gateway: the vendor's wire on loopback, and handsets on a page.

Ordinary numbers: the send is answered 201 with code 101 (102 with `enqueue=1`), reports Sent and,
a bit later, Success follow. The last six digits of a number, whatever stands before them, make an
exception; of several such recipients in one request the first decides how the whole is answered.

    ending   what happens
    000100   accepted with code 100 Processed
    000102   accepted with code 102 Queued
    000401   refused: 401 RiskHold
    000402   refused: 402 InvalidSenderId
    000403   refused: 403 InvalidPhoneNumber (so is whatever is no number at all)
    000404   refused: 404 UnsupportedNumberType
    000405   refused: 405 InsufficientBalance
    000406   refused: 406 UserInBlacklist
    000407   refused: 407 CouldNotRoute
    000409   refused: 409 DoNotDisturbRejection
    000500   refused: 500 InternalServerError
    000501   refused: 501 GatewayError
    000502   refused: 502 RejectedByGateway
    000997   left out of the answer's recipients
    000998   refused without a status code ("Could Not Send", as in old answers)
    000999   refused with a code nobody knows: 999 Unheard
    001400   HTTP 400, text
    001401   HTTP 401, text
    001402   HTTP 201, InvalidSenderId and no recipients
    001405   HTTP 201, every recipient refused with 405
    001409   HTTP 409, JSON, every recipient refused with 409
    001429   HTTP 429, text
    001500   HTTP 500, text
    001502   HTTP 502, an HTML page
    001503   HTTP 503, text
    002001   accepted, answered slowly
    002002   no answer for long; not accepted if the caller leaves before
    002003   accepted, then the connection breaks in mid-answer
    002004   accepted, then an unreadable HTTP 201
    003001   reports Sent, Failed (DeliveryFailure)
    003002   report Rejected (NotNetworkSubcriber)
    003003   reports Sent, AbsentSubscriber
    003004   reports Sent, Expired
    003005   reports Sent, HeldAtCustoms (an unknown word)
    003006   delivered, but no report ever comes
    003007   report Sent, then silence
    003008   every report twice
    003009   report Success before Sent
    003010   both reports before the answer to the send
    003011   both reports very late
    003012   reports Sent, AbsentSubscriber, Success
    003013   report Rejected (UserInBlackList)
"""

from savannah.entrypoints.simulator.app import Simulator
from savannah.entrypoints.simulator.faults import MAGIC, Faults, Mode, ReportMode
from savannah.entrypoints.simulator.gateway import (
    HandsetMessage,
    MessageStatus,
    ReceivedSend,
    SimulatorSettings,
)

__all__ = [
    "MAGIC",
    "Faults",
    "HandsetMessage",
    "MessageStatus",
    "Mode",
    "ReceivedSend",
    "ReportMode",
    "Simulator",
    "SimulatorSettings",
]
