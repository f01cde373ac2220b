"""The real process takes the tokens of an issuer it was told to trust."""

import json
import re
import time

import pytest

from fake_issuer import AUDIENCE, FakeIssuer

pytestmark = pytest.mark.e2e


def test_a_token_of_a_trusted_issuer_works_over_a_socket(processes):
    with FakeIssuer() as issuer:
        trusted = json.dumps(
            [
                {
                    "issuer": issuer.url,
                    "audiences": [AUDIENCE],
                    "roles": {"order-desk": "staff"},
                    "roles_claim": "realm_access.roles",
                    "scopes_from": "role",
                    "token_types": ["at+jwt", "JWT"],
                }
            ]
        )
        now = int(time.time())
        claims = {
            "iss": issuer.url,
            "sub": "jane",
            "aud": AUDIENCE,
            "exp": now + 300,
            "typ": "Bearer",
            "realm_access": {"roles": ["order-desk"]},
        }
        token = issuer.token(claims, header={"typ": "JWT"})
        running = processes.start("serve", "--port", "0", OIDC_TRUSTED_ISSUERS=trusted)
        headers = {"Authorization": f"Bearer {token}"}
        customer = {"name": "Jane Smith", "phone_number": "+254700123456"}
        made = running.client.post("/api/customers/", json=customer, headers=headers)
        assert made.status_code == 201, made.text
        strange = {"Authorization": f"Bearer {issuer.token({**claims, 'aud': 'another'})}"}
        assert running.client.get("/api/orders/", headers=strange).status_code == 401
        issuer.close()
        assert running.client.get("/api/orders/", headers=headers).status_code == 200
        assert running.terminate() == 0
        log = running.log.read_text()
        assert token not in log
        assert "Traceback" not in log


def test_check_says_whether_an_issuer_answers(processes):
    with FakeIssuer() as issuer:
        trusted = json.dumps([{"issuer": issuer.url, "audience": AUDIENCE}])
        done = processes.run("check", OIDC_TRUSTED_ISSUERS=trusted)
        assert done.returncode == 0
        assert re.search(rf"^issuer +ok +{issuer.url}$", done.stdout, re.MULTILINE)
    done = processes.run("check", OIDC_TRUSTED_ISSUERS=trusted)
    assert done.returncode == 1
    assert re.search(rf"^issuer +FAILED +{issuer.url}: cannot be read", done.stdout, re.MULTILINE)


def test_a_list_that_is_wrong_stops_the_start_and_says_where(processes):
    done = processes.run("serve", "--port", "0", OIDC_TRUSTED_ISSUERS='[{"issuer": "x"}]')
    assert done.returncode == 2
    assert "OIDC_TRUSTED_ISSUERS must be right in every entry: in entry 1, issuer" in done.stderr
