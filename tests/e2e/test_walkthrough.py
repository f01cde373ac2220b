"""The walk-through of the first page, on the process a newcomer starts, and commands beside it."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(shared):
    return shared.start("serve", "--port", "0")


def walk(client, *, username, slash):
    """The five steps as they are printed; the order at their end and the headers to go on with."""
    registered = client.post(
        f"/api/auth/register{slash}",
        json={
            "username": username,
            "email": f"{username}@example.com",
            "password": "securepassword123",
        },
    )
    assert registered.status_code == 201, registered.text
    assert registered.json()["user"]["role"] == "staff"

    app = client.post(f"/api/auth/create-app{slash}", json={"name": "My Mobile App"})
    assert app.status_code == 201, app.text

    login = client.post(
        f"/api/auth/login{slash}",
        json={
            "username": username,
            "password": "securepassword123",
            "client_id": app.json()["client_id"],
            "client_secret": app.json()["client_secret"],
        },
    )
    assert login.status_code == 200, login.text
    assert login.json()["expires_in"] == 3600
    headers = {"Authorization": f"Bearer {login.json()['access_token']}"}

    customer = client.post(
        f"/api/customers{slash}",
        json={"name": "Jane Smith", "phone_number": "+254700123456"},
        headers=headers,
    )
    assert customer.status_code == 201, customer.text

    order = client.post(
        f"/api/orders{slash}",
        json={
            "customer": customer.json()["id"],
            "item": "Laptop Computer",
            "amount": "999.99",
            "quantity": 1,
        },
        headers=headers,
    )
    assert order.status_code == 201, order.text
    assert order.json()["total_amount"] == "999.99"
    assert order.json()["sms"]["status"] == "queued"
    return order.json(), headers


@pytest.fixture(scope="module")
def walked(server):
    """One walk with every slash; its order and the headers to go on with."""
    return walk(server.client, username="johndoe", slash="/")


def check_text(server, until, order, headers, *, slash):
    """One text, and only one, reaches the handset and is reported as delivered."""

    def texts():
        shown = server.client.get("/simulator/state.json").json()["messages"]
        return [text for text in shown if order["order_number"] in text["text"]]

    (text,) = until(texts)
    assert text["handset"] == "+254700123456"
    assert "Laptop Computer" in text["text"]
    assert "KES 999.99" in text["text"]

    def sms():
        answer = server.client.get(f"/api/orders/{order['id']}{slash}", headers=headers)
        return answer.json()["sms"] if answer.json()["sms"]["status"] == "delivered" else None

    assert until(sms)["delivered_at"].endswith("Z")
    assert len(texts()) == 1


def test_the_five_steps_end_with_one_text_on_the_handset(server, until, walked):
    order, headers = walked
    check_text(server, until, order, headers, slash="/")


def test_the_same_five_steps_work_without_the_last_slash(server, until):
    order, headers = walk(server.client, username="janedoe", slash="")
    check_text(server, until, order, headers, slash="")


def test_placeholders_left_in_a_copied_command_are_answered_helpfully(server, walked):
    client = server.client
    no_token = client.get("/api/customers/", headers={"Authorization": "Bearer your-access-token"})
    assert (no_token.status_code, no_token.json()["code"]) == (401, "invalid_token")
    _, headers = walked
    no_customer = client.post(
        "/api/orders/",
        json={"customer": "customer-uuid", "item": "Laptop Computer", "amount": "999.99"},
        headers=headers,
    )
    assert no_customer.status_code == 422
    (problem,) = no_customer.json()["errors"]
    assert (problem["pointer"], problem["code"]) == ("#/customer", "invalid_uuid")
    no_client = client.post(
        "/api/auth/login/",
        json={
            "username": "johndoe",
            "password": "securepassword123",
            "client_id": "your-client-id",
            "client_secret": "your-client-secret",
        },
    )
    assert (no_client.status_code, no_client.json()["code"]) == (401, "invalid_client")


def test_probes_metrics_and_the_handset_page_answer(server):
    client = server.client
    assert client.get("/api/auth/health/").json()["status"] == "healthy"
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 200
    assert "process_cpu_seconds_total" in client.get("/metrics").text
    assert client.get("/simulator/").headers["content-type"].startswith("text/html")


@pytest.mark.usefixtures("server")
def test_commands_run_beside_the_server(shared):
    assert shared.run("migrate", "--check").returncode == 0

    made = shared.run(
        "createsuperuser",
        *("--username", "boss", "--email", "boss@example.com"),
        SAVANNAH_SUPERUSER_PASSWORD="a-strong-password-1",
    )
    assert made.returncode == 0, made.stderr
    again = shared.run(
        "createsuperuser", "--username", "boss", SAVANNAH_SUPERUSER_PASSWORD="a-strong-password-1"
    )
    assert again.returncode == 1
    assert "username" in again.stderr

    promoted = shared.run("users", "set-role", "boss", "staff")
    assert promoted.returncode == 1  # the last administrator stays one
    listed = shared.run("users", "list")
    assert re.search(r"^boss +admin +yes", listed.stdout, re.MULTILINE)

    checked = shared.run("check")
    assert checked.returncode == 0, checked.stdout
    assert re.search(r"^database +ok", checked.stdout, re.MULTILINE)
    assert shared.run("check", "--deploy").returncode == 1


@pytest.mark.usefixtures("walked")
def test_the_outbox_is_listed_without_numbers_and_texts(shared):
    listed = shared.run("sms", "list", "--limit", "5")
    assert listed.returncode == 0, listed.stderr
    assert "+2547****3456" in listed.stdout
    assert "700123456" not in listed.stdout
    assert "Laptop" not in listed.stdout
    assert shared.run("sms", "replay", "--all-failed").stdout == "0 messages queued again.\n"
    assert shared.run("sms", "replay").returncode == 2


def test_a_rotated_key_leaves_tokens_valid(server, shared, walked):
    _, headers = walked
    assert shared.run("keys", "rotate").returncode == 0
    assert server.client.get("/api/auth/profile/", headers=headers).status_code == 200


@pytest.mark.usefixtures("walked")
def test_nothing_private_is_in_the_log(server):
    log = server.log.read_text()
    assert '"logger": "savannah.access"' in log
    for private in ("700123456", "securepassword123", "Laptop", "eyJ"):
        assert private not in log
    token_in_path = re.search(r"/africastalking/[0-9a-f]{40}", log)
    assert token_in_path is None
