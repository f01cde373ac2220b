"""The nginx of the containers, really run before the real service."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import fresh_debian
import httpx
import pytest
from service import serving

from savannah.entrypoints.settings import parse
from servers import free_port

FILES: Final = fresh_debian.ROOT / "deploy/nginx"
HOST: Final = "orders.example.com"


class Edge:
    """nginx with its two doors.

    Attributes:
        log: the lines of its access log so far.
    """

    def __init__(
        self, *, http: int, https: int, certificate: Path, log: Path, errors: Path
    ) -> None:
        self.http, self.https, self.certificate = http, https, certificate
        self._log, self._errors = log, errors
        self.client = httpx.Client(
            verify=False,  # the name is not this machine's
            trust_env=False,
            timeout=120,
        )

    def get(self, path: str, *, secure: bool = True, **headers: str) -> httpx.Response:
        address = f"https://127.0.0.1:{self.https}" if secure else f"http://127.0.0.1:{self.http}"
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.get(address + path, headers={"Host": HOST, **given})

    def complaints(self) -> str:
        return self._errors.read_text()

    def logged(self, path: str) -> dict[str, str]:
        """The line of the last request; it is written right after the answer."""
        ends_at = time.monotonic() + 60
        while time.monotonic() < ends_at:
            lines = [json.loads(line) for line in self._log.read_text().splitlines()]
            if lines and lines[-1]["path"] == path:
                found: dict[str, str] = lines[-1]
                return found
            time.sleep(0.02)
        raise AssertionError(self._log.read_text())


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    nginx = fresh_debian.tool("nginx", package="nginx-light")
    folder = tmp_path_factory.mktemp("nginx")
    fresh_debian.run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes", "-days", "2", "-subj", f"/CN={HOST}", "-keyout", folder / "key",
        "-out", folder / "certificate",
    )  # fmt: skip
    with serving(
        folder,
        DEBUG="false",
        ALLOWED_HOSTS=HOST,
        PUBLIC_URL=f"https://{HOST}",
        TRUSTED_PROXIES="127.0.0.1/32",
        RATE_LIMIT_AUTH="3/min",
    ) as address:
        http, https = free_port(), free_port()
        text = (FILES / "nginx.conf").read_text()
        for there, here in (
            ("/tmp/", f"{folder}/"),
            ("/etc/nginx/savannah", str(FILES)),
            ("/run/secrets/tls_certificate", str(folder / "certificate")),
            ("/run/secrets/tls_key", str(folder / "key")),
            ("web:8000", address.removeprefix("http://")),
            ("listen 8080", f"listen 127.0.0.1:{http}"),
            ("listen 8443", f"listen 127.0.0.1:{https}"),
            ("/dev/stdout", str(folder / "access")),
            ("/dev/stderr", str(folder / "errors")),
        ):
            assert there in text
            text = text.replace(there, here)
        settings = folder / "nginx.conf"
        settings.write_text(text)
        fresh_debian.run(nginx, "-t", "-q", "-c", settings, "-e", folder / "errors")
        process = subprocess.Popen(
            [nginx, "-c", settings, "-e", folder / "errors", "-g", "daemon off;"]
        )
        try:
            _wait_for(https)
            found = Edge(
                http=http,
                https=https,
                certificate=folder / "certificate",
                log=folder / "access",
                errors=folder / "errors",
            )
            with found.client:
                yield found
        finally:
            process.terminate()
            process.wait(120)


def _wait_for(port: int) -> None:
    ends_at = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < ends_at, "nginx did not start"
            time.sleep(0.05)
        else:
            return


def test_the_service_answers_over_tls_and_sends_hsts(edge: Edge) -> None:
    answer = edge.get("/api/auth/health/")
    assert answer.status_code == 200
    assert answer.json()["status"] == "healthy"
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert "nginx/" not in answer.headers["server"]


def test_plain_http_is_sent_on_to_https_with_its_method(edge: Edge) -> None:
    answer = edge.get("/api/orders/?page=2", secure=False)
    assert answer.status_code == 308
    assert answer.headers["location"] == f"https://{HOST}/api/orders/?page=2"


def test_a_foreign_host_is_refused_by_the_service(edge: Edge) -> None:
    answer = edge.client.get(
        f"https://127.0.0.1:{edge.https}/api/orders/", headers={"Host": "evil.example.com"}
    )
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_host"


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "/%6Detrics/", "//metrics", "/x/../metrics/"]
)
def test_figures_are_not_for_the_world(edge: Edge, path: str) -> None:
    answer = edge.get(path)
    assert answer.status_code == 404
    assert "savannah_" not in answer.text


def test_what_a_client_claims_about_its_address_is_not_believed(edge: Edge) -> None:
    """Limits go by address, so a new claim each time would be a way around them."""
    answers = [
        edge.client.post(
            f"https://127.0.0.1:{edge.https}/api/auth/login/",
            json={"username": "nobody", "password": "wrong-password"},
            headers={"Host": HOST, "X-Forwarded-For": f"203.0.113.{number}"},
        ).status_code
        for number in range(5)
    ]
    assert answers[-1] == 429


def test_an_access_line_has_no_query_and_no_callback_token(edge: Edge) -> None:
    answer = edge.get("/api/customers/?search=0712345678", X_Request_ID="request-0001")
    line = edge.logged("/api/customers/")
    assert line["status"] == answer.status_code == 401
    assert line["request_id"] == "request-0001"
    assert "0712345678" not in json.dumps(line)
    edge.get("/api/sms/africastalking/a-very-secret-token/delivery/")
    line = edge.logged("/api/sms/africastalking/***/delivery/")
    assert "a-very-secret-token" not in json.dumps(line)


def test_nginx_waits_until_the_service_has_given_up_by_itself() -> None:
    (patience_s,) = re.findall(r"proxy_read_timeout (\d+)s;", (FILES / "proxy.conf").read_text())
    assert int(patience_s) > parse({}).request_timeout.total_seconds()


def test_an_oversized_body_does_not_reach_the_service(edge: Edge) -> None:
    answer = edge.client.post(
        f"https://127.0.0.1:{edge.https}/api/auth/login/",
        content=b"x" * (2 * 1024 * 1024),
        headers={"Host": HOST},
    )
    assert answer.status_code == 413
    assert edge.logged("/api/auth/login/")["upstream_s"] == ""


def test_what_nginx_complains_of_names_no_query_and_no_callback_token(edge: Edge) -> None:
    """Its own words hold the whole request line, and cannot be given another form."""
    path = "/api/sms/africastalking/another-secret-token/delivery/"
    answer = edge.client.post(
        f"https://127.0.0.1:{edge.https}{path}?phoneNumber=0712345678",
        content=b"x" * (2 * 1024 * 1024),
        headers={"Host": HOST},
    )
    assert answer.status_code == 413
    assert edge.logged("/api/sms/africastalking/***/delivery/")["status"] == 413
    assert "another-secret-token" not in edge.complaints()
    assert "0712345678" not in edge.complaints()


@pytest.mark.parametrize(
    ("version", "spoken"),
    [
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_begins_at_version_1_2(edge: Edge, version: ssl.TLSVersion, spoken: bool) -> None:
    context = ssl.create_default_context(cafile=str(edge.certificate))
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", edge.https), timeout=5) as plain:
        try:
            context.wrap_socket(plain, server_hostname=HOST).close()
        except ssl.SSLError:
            assert not spoken
        else:
            assert spoken
