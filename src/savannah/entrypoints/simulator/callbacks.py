"""What the simulated gateway posts to the receiver: delivery reports, inbound texts, opt-outs.

Source: Africa's Talking developer page "SMS Notifications". Re-posting until HTTP 200 is what
the vendor's help centre says; the pauses here are shorter and end soon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import httpx

from savannah.entrypoints.simulator.faults import Report

_log = logging.getLogger("savannah.simulator")

_TIMEOUT_S: Final = 10.0
# One operator a country will do; the sandbox's own code stands for all others.
_NETWORK_CODES: Final = {
    "+254": "63902",
    "+256": "64110",
    "+255": "64004",
    "+250": "63510",
    "+234": "62130",
    "+265": "65010",
}
_SANDBOX_NETWORK: Final = "99999"

TAKEN: Final = "200"  # the one outcome that is not tried again


class Callbacks:
    """Posts to one receiver and nowhere else; `note` hears of every attempt."""

    def __init__(self, retry_delays_s: Sequence[float], note: Callable[[str, str], None]) -> None:
        self._retry_delays_s = retry_delays_s
        self._note = note
        self._client: httpx.AsyncClient | None = None

    async def post(self, root: str | None, kind: str, form: Mapping[str, str]) -> str:
        """Post until it is answered 200 or the retries end; the last outcome in a word."""
        if root is None:
            return "no callback URL"
        if self._client is None:
            # Proxies of the environment must not see what is meant for one address.
            self._client = httpx.AsyncClient(
                trust_env=False,
                timeout=httpx.Timeout(_TIMEOUT_S, pool=None),
                limits=httpx.Limits(max_connections=20),
            )
        outcome = ""
        for pause_s in (*self._retry_delays_s, None):
            try:
                response = await self._client.post(f"{root.rstrip('/')}/{kind}/", data=dict(form))
                outcome = str(response.status_code)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                outcome = type(error).__name__
            self._note(kind, f"{form.get('status', '')} → {outcome}".lstrip())
            if outcome == TAKEN or pause_s is None:
                break
            await asyncio.sleep(pause_s)
        if outcome != TAKEN:
            _log.warning("gave up on a %s callback: %s", kind, outcome)
        return outcome

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def report_form(message_id: str, number: str, report: Report) -> dict[str, str]:
    """The fields of one delivery report."""
    form = {
        "id": message_id,
        "status": report.status,
        "phoneNumber": number,
        "networkCode": network_code(number),
        "retryCount": "0",
    }
    if report.failure_reason is not None:
        form["failureReason"] = report.failure_reason
    return form


def network_code(number: str) -> str:
    return _NETWORK_CODES.get(number[:4], _SANDBOX_NETWORK)


def without_secret(url: str | None) -> str | None:
    """The address of a receiver without its path, which holds the receiver's secret."""
    return None if url is None else f"{urlsplit(url).scheme}://{urlsplit(url).netloc}/…"
