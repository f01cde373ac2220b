"""docs/how-to/simulate-failures.md: each number of its table, texted by the real process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs/how-to/simulate-failures.md"
TABLE = re.findall(r"^\| `(\d{6})` \| (.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
PAUSES = "000405"
PERSON = {"username": "johndoe", "password": "securepassword123"}


def promised() -> dict[str, set[str]]:
    """By ending: every state that the page names."""
    found: dict[str, set[str]] = {}
    for ending, _, becomes in TABLE:
        same = becomes == "the same"
        found[ending] = list(found.values())[-1] if same else set(re.findall("`(.*?)`", becomes))
    return found


def test_every_number_of_the_page_does_what_it_says(processes, until):
    retries = {"SMS_MAX_ATTEMPTS": "2", "SMS_RETRY_BASE_S": "1"}  # hours, with the usual ones
    service = processes.start("serve", "--port", "0", RATE_LIMIT="off", **retries)
    client = service.client
    client.post("/api/auth/register/", json=PERSON | {"email": "john@example.com"})
    app = client.post("/api/auth/create-app/", json={"name": "Till"}).json()
    credentials = {name: app[name] for name in ("client_id", "client_secret")}
    login = client.post("/api/auth/login/", json=PERSON | credentials).json()
    client.headers["Authorization"] = f"Bearer {login['access_token']}"
    seen: dict[str, set[str]] = {}
    orders: dict[str, tuple[str, str]] = {}

    def order(ending: str) -> None:
        jane = {"name": f"Jane {ending}", "phone_number": f"+254700{ending}"}
        customer = client.post("/api/customers/", json=jane).json()["id"]
        lamp = {"customer": customer, "item": "Lamp", "amount": "10.00"}
        orders[ending] = (client.post("/api/orders/", json=lamp).json()["id"], customer)
        seen[ending] = set()

    def look(ending: str) -> None:
        number, customer = orders[ending]
        seen[ending].add(client.get(f"/api/orders/{number}/").json()["sms"]["status"])
        seen[ending].add(client.get(f"/api/customers/{customer}/").json()["sms_reachability"])

    def came_true() -> bool:
        for ending in orders:
            look(ending)
        return all(promised()[ending] <= seen[ending] for ending in orders)

    assert len(TABLE) >= 10
    for ending in promised().keys() - {PAUSES}:
        order(ending)
    try:
        until(came_true)
        order(PAUSES)
        until(came_true)
    except AssertionError as late:
        missing = {ending: promised()[ending] - seen[ending] for ending in orders}
        raise AssertionError(
            {ending: states for ending, states in missing.items() if states}
        ) from late
    assert 'savannah_gateway_paused{kind="account"} 1.0' in client.get("/metrics").text
    assert "delivered" not in seen["003006"]
