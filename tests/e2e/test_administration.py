"""Accounts and apps from the command line, on the storage of a folder."""

import re

import pytest

pytestmark = pytest.mark.e2e


def test_an_operator_looks_after_apps_and_accounts(processes):
    superuser = {"SAVANNAH_SUPERUSER_PASSWORD": "securepassword123"}
    for name in ("boss", "chief"):
        done = processes.run("createsuperuser", "--username", name, **superuser)
        assert done.returncode == 0, done.stderr

    made = processes.run("apps", "create", "Till", "--first-party", "--scope", "read")
    assert made.returncode == 0, made.stderr
    client_id = re.search(r"client_id +(\w{32})$", made.stdout, re.MULTILINE)[1]
    first = re.search(r"client_secret +(\w{43})$", made.stdout, re.MULTILINE)[1]
    rotated = processes.run("apps", "rotate-secret", client_id)
    second = re.search(r"client_secret +(\w{43})$", rotated.stdout, re.MULTILINE)[1]
    old = re.search(r"^The secret (\w+) goes on", rotated.stdout, re.MULTILINE)[1]
    listed = processes.run("apps", "list").stdout
    assert re.search(
        rf"^{client_id} +Till +confidential +yes +yes +\w+,{old} ", listed, re.MULTILINE
    )
    assert first not in listed

    running = processes.start("serve", "--port", "0")

    def log_in(secret, username="boss", password="securepassword123"):
        body = {"username": username, "password": password, "client_id": client_id}
        return running.client.post("/api/auth/login/", json={**body, "client_secret": secret})

    assert [log_in(secret).status_code for secret in (first, second)] == [200, 200]
    assert processes.run("apps", "remove-secret", client_id, old).returncode == 0
    assert [log_in(secret).status_code for secret in (first, second)] == [401, 200]

    bearer = {"Authorization": f"Bearer {log_in(second, 'chief').json()['access_token']}"}
    assert processes.run("users", "disable", "chief").returncode == 0
    assert running.client.get("/api/auth/profile/", headers=bearer).status_code == 403
    last = processes.run("users", "disable", "boss")
    assert (last.returncode, last.stderr) == (
        1,
        "savannah: The last active administrator stays one\n",
    )
    assert processes.run("users", "enable", "chief").returncode == 0
    assert processes.run("users", "set-role", "chief", "viewer").returncode == 0
    assert re.search(r"^chief +viewer +yes ", processes.run("users", "list").stdout, re.MULTILINE)

    reset = processes.run("users", "reset-password", "chief").stdout
    given = re.fullmatch(r"The password of chief is (\w{20}) until they change it\.\n", reset)[1]
    assert log_in(second, "chief").status_code == 401
    assert log_in(second, "chief", given).status_code == 200

    assert processes.run("apps", "disable", client_id).returncode == 0
    assert log_in(second).status_code == 401
    assert processes.run("apps", "enable", client_id).returncode == 0
    assert log_in(second).status_code == 200
    missing = processes.run("apps", "disable", "nobody")
    assert (missing.returncode, missing.stderr) == (1, "savannah: No such app\n")
    log = running.log.read_text()
    assert first not in log
    assert second not in log
    assert given not in log
