"""A whole desk behind its REST door, in memory: what the HTTP tests talk to."""

import asyncio
import re
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache

import httpx
import jsonschema_rs
import pytest
from prometheus_client import CollectorRegistry

from savannah.adapters.memory import (
    InlineQueue,
    ManualClock,
    MemoryGateway,
    MemoryRateLimiter,
    MemoryStorage,
    SeededRandomness,
)
from savannah.adapters.passwords import Argon2Hasher
from savannah.adapters.prometheus import PrometheusMetrics
from savannah.adapters.proofs import JoseProofs
from savannah.adapters.tokens import JoseTokens
from savannah.application.business import Business
from savannah.application.customers import Customers
from savannah.application.identity import IdentitySettings
from savannah.application.notifications import Notifications
from savannah.application.orders import Orders
from savannah.application.ports import LogoutSender
from savannah.application.reports import Reports
from savannah.application.savannah import Identity, Savannah
from savannah.domain.access import Caller, Role
from savannah.entrypoints.http import openapi
from savannah.entrypoints.http.app import create_app
from savannah.entrypoints.http.door import HttpOptions

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
PASSWORD = "securepassword123"
CALLBACK_TOKEN = "callback-token-0123456789"
IDENTITY = IdentitySettings(
    registration_open=True, registration_role=Role.STAFF, app_creation_open=True
)
OPTIONS = {
    "issuer": "http://desk.test",
    "debug": True,
    "allowed_hosts": ("*",),
    "cursor_key": b"cursor key of the tests",
    "callback_token": CALLBACK_TOKEN,
}


class Documented:
    """Holds every answer against the OpenAPI document, closed to members it does not name."""

    def __init__(self):
        self.document = deepcopy(openapi.document())
        for name, schema in self.document["components"]["schemas"].items():
            if "properties" in schema and name != "Problem":
                schema.setdefault("additionalProperties", False)
        # A literal segment wins over a parameter, as in the router.
        self._templates = sorted(self.document["paths"], key=lambda path: path.count("{"))

    def operation(self, method, path):
        """What the document says of a request; None where it knows no such endpoint."""
        bare = path.removesuffix("/")
        for template in self._templates:
            pattern = re.sub(r"\{\w+\}", "[^/]+", template.rstrip("/"))
            if re.fullmatch(pattern, bare):
                return self.document["paths"][template].get(method.lower())
        return None

    async def check(self, answer):
        """The response hook of the client."""
        await answer.aread()
        if answer.status_code == 308:  # the gate's, before there is any endpoint
            return
        operation = self.operation(answer.request.method, answer.request.url.path)
        if operation is None:
            if answer.request.url.path.startswith("/api/") and answer.request.method != "HEAD":
                assert answer.status_code in (204, 308, 400, 404, 405, 500), answer.text
            return
        assert str(answer.status_code) in operation["responses"], (
            f"{operation['operationId']} does not document {answer.status_code}: {answer.text}"
        )
        expected = self._resolved(operation["responses"][str(answer.status_code)])
        for name, header in expected["headers"].items():
            self._check_header(name, self._resolved(header), answer.headers.get(name))
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if "content" not in expected:
            assert not answer.content
            return
        assert kind in expected["content"], f"{kind} is not documented"
        if kind.endswith("json"):
            self._validator(operation["operationId"], str(answer.status_code), kind).validate(
                answer.json()
            )

    @staticmethod
    def _check_header(name, header, value):
        if value is None:
            assert not header.get("required"), f"{name} is missing"
            return
        number = header["schema"]["type"] == "integer"
        jsonschema_rs.validate(header["schema"], int(value) if number else value)

    @cache  # noqa: B019 - there is one of these
    def _validator(self, operation_id, status, kind):
        operation = next(
            each
            for item in self.document["paths"].values()
            for each in item.values()
            if each["operationId"] == operation_id
        )
        media = self._resolved(operation["responses"][status])["content"][kind]
        return jsonschema_rs.Draft202012Validator(
            {**media["schema"], "components": self.document["components"]}, validate_formats=True
        )

    def _resolved(self, item):
        while "$ref" in item:
            found = self.document
            for name in item["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            item = found
        return item


@cache
def documented():
    return Documented()


@dataclass
class Shared:
    """What is dear to make and keeps nothing of one test for the next."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))
    hasher: Argon2Hasher = field(
        default_factory=lambda: Argon2Hasher(memory_kib=8, time_cost=1, threads=1)
    )

    def __post_init__(self):
        self._keys = MemoryStorage()
        self.tokens = self.tokens_of("http://desk.test")

    def tokens_of(self, issuer):
        """Tokens of that issuer; all have the same keys."""
        return JoseTokens(
            storage=self._keys,
            clock=self.clock,
            secret_key="a secret key of the tests, long enough",
            issuer=issuer,
            audience="savannah",
        )


class KeptLogouts(LogoutSender):
    """Keeps what apps are told; takes nothing while it is `away`."""

    def __init__(self):
        self.sent = []
        self.away = False

    async def send(self, uri, logout_token):
        self.sent.append((uri, logout_token))
        return not self.away


class Desk:
    """One desk with an HTTP client that speaks for whoever a test names."""

    def __init__(
        self,
        shared,
        *,
        options,
        identity,
        business,
        checks,
        storage,
        simulator=None,
        queues=None,
        issuers=None,
        loop_factory=None,
    ):
        self.clock = shared.clock
        self.issuer = options.get("issuer", OPTIONS["issuer"])
        usual = self.issuer == OPTIONS["issuer"]
        self.tokens = shared.tokens if usual else shared.tokens_of(self.issuer)
        self.clock.set(NOW)
        self.randomness = SeededRandomness()
        self.callback_token = CALLBACK_TOKEN
        self.storage = storage
        self.gateway = MemoryGateway()
        self.limiter = MemoryRateLimiter(self.clock)
        self.metrics = PrometheusMetrics(CollectorRegistry())
        self.logout_sender = KeptLogouts()
        self.business = business
        queue = InlineQueue()
        world = {
            "storage": self.storage,
            "clock": self.clock,
            "randomness": self.randomness,
            "business": business,
        }
        notifications = Notifications(
            **world, gateway=self.gateway, jobs=queue, metrics=self.metrics
        )
        queue.bind(notifications.send)
        self.identity = Identity.over(
            storage=self.storage,
            tokens=self.tokens,
            hasher=shared.hasher,
            limiter=self.limiter,
            clock=self.clock,
            randomness=self.randomness,
            proofs=JoseProofs(),
            logout_sender=self.logout_sender,
            settings=identity,
            issuer=self.issuer,
            ticket_key=b"a key for tickets",
            issuers=issuers,
        )
        self.savannah = Savannah(
            customers=Customers(**world),
            orders=Orders(**world, jobs=queue, metrics=self.metrics),
            notifications=notifications,
            reports=Reports(storage=self.storage, clock=self.clock, business=business),
            identity=self.identity,
            business=business,
            storage=self.storage,
        )
        self.app = create_app(
            self.savannah,
            options=HttpOptions(**{**OPTIONS, **options}),
            limiter=self.limiter,
            clock=self.clock,
            metrics=self.metrics,
            checks=checks,
            simulator=simulator,
            queues=queues,
        )
        self._runner = asyncio.Runner(loop_factory=loop_factory)
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, client=("127.0.0.1", 50000)),
            base_url="http://desk.test",
            event_hooks={"response": [documented().check]},
        )
        self._tokens = {}

    def run(self, awaitable):
        """What a use case returns, on the loop of the requests."""

        async def whole():
            return await awaitable

        return self._runner.run(whole())

    def renew(self):
        """Begin again with nothing in it, as another test expects it."""
        self.clock.set(NOW)
        self.limiter.__init__(self.clock)
        for each in (self.storage, self.gateway, self.randomness, self.logout_sender):
            each.__init__()
        self._tokens.clear()

    def close(self):
        self.run(self.client.aclose())
        self._runner.close()

    def request(self, method, path, *, by=None, headers=None, **more):
        """A request by a role (`staff`), by whoever has a token (`Bearer …`), or by nobody."""
        sent = dict(headers or {})
        if by is not None:
            known = by.startswith("Bearer ")
            sent["Authorization"] = by if known else f"Bearer {self.token(by)}"
        return self.run(self.client.request(method, path, headers=sent, **more))

    def time(self):
        """Seconds of the loop of the requests."""
        return self._runner.get_loop().time()

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, **more):
        return self.request("POST", path, **more)

    def patch(self, path, **more):
        return self.request("PATCH", path, **more)

    def delete(self, path, **more):
        return self.request("DELETE", path, **more)

    def token(self, role):
        """The access token of somebody with that role; a new one before it ends."""
        if role not in self._tokens:
            self.run(self._register(Role(role)))
        since, token = self._tokens.get(role, (None, None))
        if since is None or self.clock.now() - since >= timedelta(minutes=50):
            since, token = self.clock.now(), self.run(self.log_in(f"a-{role}")).access_token
            self._tokens[role] = since, token
        return token

    async def _register(self, role):
        name = f"a-{role}"
        await self.identity.accounts.create_superuser(username=name, password=PASSWORD)
        # Somebody has to stay an administrator.
        await self.identity.accounts.create_superuser(
            username=f"chief-of-{name}", password=PASSWORD
        )
        await self.identity.accounts.set_role(name, role, by=None)

    async def log_in(self, username, *, password=PASSWORD, scope=None, address="10.9.8.7"):
        """A login through a new app."""
        client, secret = await self.new_app()
        return await self.identity.logins.login(
            username=username,
            password=password,
            client_id=client.client_id,
            client_secret=secret,
            scope=scope,
            address=address,
        )

    async def new_app(self):
        return await self.identity.apps.create_client(
            name="Test app", by=Caller.admin("tests"), grant_types=None
        )

    def customer(self, **fields):
        """A new customer's JSON."""
        body = {"name": "Jane Smith", "phone_number": "0700 123 456", **fields}
        answer = self.post("/api/customers/", by="staff", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def order(self, customer=None, **fields):
        """A new order's JSON, for a new customer if need be."""
        whose = (customer or self.customer())["id"]
        body = {"customer": whose, "item": "Laptop Computer", "amount": "999.99", **fields}
        answer = self.post("/api/orders/", by="staff", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def move(self, order, *statuses):
        """The order's JSON after these steps."""
        for status in statuses:
            path = f"/api/orders/{order['id']}/update_status/"
            answer = self.patch(path, by="admin", json={"status": status})
            assert answer.status_code == 200, answer.text
            order = answer.json()
        return order

    def dispatch(self):
        """Hand what is due to the gateway."""
        return self.run(self.savannah.notifications.dispatch_due())

    def advance(self, **delta):
        self.clock.advance(timedelta(**delta))


def refused(answer, status, code, *fields):
    """The problem document of a refusal, after a look at what every one has.

    `fields` are pairs of a place (`#/name`, a parameter or a header) and its code.
    """
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert found["code"] == code
    assert found["type"] == f"/problems/{code}"
    assert found["title"]
    assert found["detail"]
    assert found["instance"].startswith("/")
    assert found["request_id"] == answer.headers["x-request-id"]
    if fields:
        places = [
            (each.get("pointer") or each.get("parameter") or each.get("header"), each["code"])
            for each in found["errors"]
        ]
        assert sorted(places) == sorted(fields)
    return found


@pytest.fixture(scope="session")
def shared():
    return Shared()


@pytest.fixture(name="refused")
def refused_fixture():
    return refused


@pytest.fixture
def open_desk(shared):
    """Opens a desk with other settings than usual."""
    desks = []

    def opened(
        *,
        identity=IDENTITY,
        business=None,
        checks=None,
        storage=None,
        simulator=None,
        queues=None,
        issuers=None,
        loop_factory=None,
        **options,
    ):
        desks.append(
            Desk(
                shared,
                options=options,
                identity=identity,
                business=business or Business(),
                checks=checks or {},
                storage=storage or MemoryStorage(),
                simulator=simulator,
                queues=queues,
                issuers=issuers,
                loop_factory=loop_factory,
            )
        )
        return desks[-1]

    yield opened
    for desk in desks:
        desk.close()


@pytest.fixture(scope="session")
def usual_desk(shared):
    desk = Desk(
        shared,
        options={},
        identity=IDENTITY,
        business=Business(),
        checks={},
        storage=MemoryStorage(),
    )
    yield desk
    desk.close()


@pytest.fixture
def desk(usual_desk):
    """A desk with the usual settings. Building one takes long, so all tests share it in turn."""
    usual_desk.renew()
    return usual_desk


@pytest.fixture(scope="session")
def only_secure_desk(shared):
    desk = Desk(
        shared,
        options={"issuer": "https://desk.test", "debug": False, "allowed_hosts": ("desk.test",)},
        identity=IDENTITY,
        business=Business(),
        checks={},
        storage=MemoryStorage(),
    )
    yield desk
    desk.close()


@pytest.fixture
def secure_desk(only_secure_desk):
    """As `desk`, behind https and out of development."""
    only_secure_desk.renew()
    return only_secure_desk
