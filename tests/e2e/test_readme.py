"""The commands of the README, taken out of its text and run against the real process."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

README = Path(__file__).parents[2] / "README.md"
CURLS = re.findall(r"^```bash\n(curl .*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def run_curl(command: str) -> tuple[int, dict]:
    """Run a printed command: by curl itself, or by its arguments where there is no curl."""
    words = shlex.split(command.replace("\\\n", " "))
    if shutil.which("curl"):
        done = subprocess.run(
            [*words, "--silent", "--noproxy", "*", "--write-out", "\n%{http_code}"],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body)
    assert words[:3] == ["curl", "-X", "POST"], words
    headers = dict(
        re.split(": *", words[at + 1], maxsplit=1) for at, word in enumerate(words) if word == "-H"
    )
    body = words[words.index("-d") + 1]
    answer = httpx.post(words[3], headers=headers, content=body, trust_env=False, timeout=120)
    return answer.status_code, answer.json()


@pytest.mark.e2e
@pytest.mark.parametrize("slash", ["/", ""], ids=["as printed", "without the last slash"])
def test_the_five_calls_of_the_readme_text_jane_once(processes, slash):
    service = processes.start("serve", "--port", "0")
    known = {"http://localhost:8000": service.url}
    answers = []
    for command in CURLS:
        for placeholder, value in known.items():
            command = command.replace(placeholder, value)  # noqa: PLW2901
        status, answer = run_curl(re.sub(r"/ \\\n", f"{slash} \\\n", command, count=1))
        assert status in (200, 201), answer
        answers.append((status, answer))
        for name, field in (
            ("your-client-id", "client_id"),
            ("your-client-secret", "client_secret"),
            ("your-access-token", "access_token"),
        ):
            if field in answer:
                known[name] = answer[field]
        known["customer-uuid"] = answer.get("id", "")
    assert [status for status, _ in answers] == [201, 201, 200, 201, 201]
    assert answers[0][1]["user"]["role"] == "staff"
    assert answers[2][1]["expires_in"] == 3600
    order = answers[4][1]
    assert (order["total_amount"], order["sms"]["status"]) == ("999.99", "queued")
    deadline = time.monotonic() + 20
    texts: list[dict] = []
    while time.monotonic() < deadline:
        texts = service.client.get("/simulator/state.json").json()["messages"]
        if texts and texts[0]["status"] == "delivered":
            break
        time.sleep(0.1)  # the phone is another process; there is nothing to wait on
    assert len(texts) == 1, texts
    assert order["order_number"] in texts[0]["text"]


def test_the_placeholders_left_as_they_are_get_the_answers_that_help(processes):
    service = processes.start("serve", "--port", "0")
    login, customer = CURLS[2], CURLS[3]
    status, answer = run_curl(login.replace("http://localhost:8000", service.url))
    assert (status, answer["code"]) == (401, "invalid_client")
    status, answer = run_curl(customer.replace("http://localhost:8000", service.url))
    assert (status, answer["code"]) == (401, "invalid_token")
