"""SAQ's web page over a real Redis with real jobs: who sees it, what it shows, what it can do."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from datetime import timedelta
from uuid import uuid4

import pytest

from relying_party import new_app, register
from savannah.adapters.saq_queue import SaqQueue, SaqWorker
from savannah.adapters.saq_queue.board import QueueBoard
from savannah.domain.order import NotificationId
from servers import own_redis

ROOT = "/admin/queues"
HTML = {"Accept": "text/html,application/xhtml+xml"}
BROWSER = {**HTML, "Sec-Fetch-Site": "same-origin"}


class Office:
    """A desk whose queue has jobs: one that runs, and two that wait for it."""

    def __init__(self, desk, queue):
        self.desk = desk
        self.queue = queue
        self.name = queue.saq.name
        self.begun = []
        self.gate = asyncio.Event()
        self.worker = SaqWorker(queue, batch=1, concurrency=1)
        self.worker.bind(self.handle)
        self.ids = [NotificationId(uuid4()) for _ in range(3)]

    async def handle(self, ids):
        self.begun += ids
        await self.gate.wait()

    async def open(self):
        await self.worker.start()
        for id_ in self.ids:
            await self.queue.enqueue([id_])
            async with asyncio.timeout(60):
                while not self.begun:  # noqa: ASYNC110  the worker has its own pace
                    await asyncio.sleep(0.01)

    async def close(self):
        self.gate.set()
        await self.worker.stop(grace=timedelta(seconds=60))
        await self.queue.close()

    def path(self, id_, what=""):
        return f"{ROOT}/api/queues/{self.name}/jobs/{id_}{what}"


@pytest.fixture
def office(open_desk, redis_server):
    queue = SaqQueue(redis_server.url, name=redis_server.fresh_name())
    office = Office(open_desk(queues=QueueBoard(queue)), queue)
    office.desk.run(office.open())
    yield office
    office.desk.run(office.close())


def test_without_redis_there_is_no_such_page(desk, refused):
    refused(desk.get(f"{ROOT}/", by="admin"), 404, "not_found")


def test_an_administrator_sees_the_queue_its_jobs_and_each_job(office):
    listed = office.desk.get(f"{ROOT}/api/queues", by="admin").json()
    (queue,) = listed["queues"]
    assert queue["name"] == office.name
    assert queue["queued"] + queue["active"] == 3
    shown = office.desk.get(f"{ROOT}/api/queues/{office.name}", by="admin").json()
    assert {job["key"] for job in shown["queue"]["jobs"]} == {str(id_) for id_ in office.ids}
    (begun,) = office.begun
    job = office.desk.get(office.path(begun), by="admin").json()["job"]
    assert (job["function"], job["status"]) == ("send_sms", "active")
    assert str(begun) in job["kwargs"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/queues/{queue}"),
        ("GET", "/static/app.js"),
        ("GET", "/api/queues"),
        ("GET", "/api/queues/{queue}"),
        ("GET", "/api/queues/{queue}/jobs/{job}"),
        ("POST", "/api/queues/{queue}/jobs/{job}/retry"),
        ("POST", "/api/queues/{queue}/jobs/{job}/abort"),
    ],
)
def test_nobody_else_gets_anything_of_it(office, refused, method, path):
    path = ROOT + path.format(queue=office.name, job=office.ids[0])
    refused(office.desk.request(method, path), 401, "authentication_required")
    for role in ("staff", "viewer"):
        refused(office.desk.request(method, path, by=role), 403, "insufficient_scope")
    refused(office.desk.request(method, path, by="Bearer rubbish"), 401, "invalid_token")


def test_an_administrators_token_that_is_good_for_less_opens_nothing(office, refused):
    office.desk.token("admin")
    login = office.desk.run(office.desk.log_in("a-admin", scope="orders:read"))
    answer = office.desk.get(f"{ROOT}/api/queues", by=f"Bearer {login.access_token}")
    refused(answer, 403, "insufficient_scope")


def test_the_page_and_its_assets_are_complete_and_allowed_by_its_policy(office):
    answer = office.desk.get(f"{ROOT}/", by="admin", headers=HTML)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    sources = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert len(sources) == 4
    assert sources.count(f"{ROOT}/sign-out") == 1
    for source in set(sources) - {f"{ROOT}/sign-out"}:
        assert source.startswith(f"{ROOT}/static/")  # nothing from elsewhere
        asset = office.desk.get(source, by="admin")
        assert asset.status_code == 200
        kind = "text/css" if source.endswith(".css") else "text/javascript"
        assert asset.headers["content-type"].partition(";")[0] == kind
        assert len(asset.content) > 1000
        assert b"https://cdn" not in asset.content
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"


def test_a_browser_is_asked_for_a_token_and_keeps_it_where_no_script_and_no_site_gets_it(office):
    desk = office.desk
    asked = desk.get(f"{ROOT}/", headers=HTML)
    assert asked.status_code == 401
    assert f'action="{ROOT}/sign-in"' in asked.text
    assert "form-action 'self'" in asked.headers["content-security-policy"]
    for token, status in ((desk.token("staff"), 403), ("rubbish", 401), ("", 401)):
        refusal = desk.post(f"{ROOT}/sign-in", data={"token": token}, headers=BROWSER)
        assert refusal.status_code == status
        assert "set-cookie" not in refusal.headers
    signed = desk.post(f"{ROOT}/sign-in", data={"token": desk.token("admin")}, headers=BROWSER)
    assert (signed.status_code, signed.headers["location"]) == (303, f"{ROOT}/")
    cookie = signed.headers["set-cookie"]
    for part in (f"Path={ROOT}", "HttpOnly", "SameSite=Strict"):
        assert part in cookie
    assert desk.get(f"{ROOT}/", headers=BROWSER).status_code == 200  # the client has kept it
    assert desk.get(f"{ROOT}/api/queues", headers=BROWSER).status_code == 200
    elsewhere = desk.get("/api/customers/", headers=BROWSER)
    assert elsewhere.status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://elsewhere.example"},
        {},
    ],
)
def test_another_site_cannot_make_a_browser_press_a_button(office, refused, headers):
    desk = office.desk
    desk.post(f"{ROOT}/sign-in", data={"token": desk.token("admin")}, headers=BROWSER)
    for what in ("/retry", "/abort"):
        answer = desk.post(office.path(office.ids[1], what), headers=headers)
        refused(answer, 401, "authentication_required")
    assert (
        desk.run(office.queue.saq.count("queued")) + desk.run(office.queue.saq.count("active")) == 3
    )


def test_a_cookie_of_somebody_who_is_no_administrator_any_more_opens_nothing(office, refused):
    desk = office.desk
    desk.post(f"{ROOT}/sign-in", data={"token": desk.token("admin")}, headers=BROWSER)
    same = {"Sec-Fetch-Site": "same-origin"}
    assert desk.get(f"{ROOT}/api/queues", headers=same).status_code == 200
    desk.run(desk.identity.accounts.set_role("a-admin", "staff", by=None))
    refused(desk.get(f"{ROOT}/api/queues", headers=same), 403, "insufficient_scope")


def test_an_administrator_who_has_logged_in_to_any_app_needs_no_token(office, refused):
    desk, same = office.desk, {"Sec-Fetch-Site": "same-origin"}
    register(desk)
    app = new_app(desk)
    app.code()
    browser = app.browser
    for path in ("/", "/api/queues"):
        asked = browser.get(ROOT + path, headers=same)
        refused(asked, 403, "insufficient_scope")
    desk.run(desk.identity.accounts.create_superuser(username="boss", password="Zawadi-2026"))
    desk.run(desk.identity.accounts.set_role("johndoe", "admin", by=None))
    page = browser.get(f"{ROOT}/", headers=HTML)
    assert page.status_code == 200
    assert browser.get(f"{ROOT}/api/queues", headers=same).status_code == 200
    waiting = [id_ for id_ in office.ids if id_ not in office.begun]
    for elsewhere in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {}):
        answer = browser.post(office.path(waiting[0], "/abort"), headers=elsewhere)
        refused(answer, 401, "authentication_required")
    assert browser.post(office.path(waiting[0], "/abort"), headers=same).status_code == 200
    asked = browser.get(f"{ROOT}/sign-out", headers=BROWSER)
    assert "Do you want to log out?" in asked.text
    browser.send(asked)
    assert browser.get(f"{ROOT}/", headers=BROWSER).status_code == 401


def test_who_signs_out_leaves_no_token_behind(office):
    desk = office.desk
    desk.post(f"{ROOT}/sign-in", data={"token": desk.token("admin")}, headers=BROWSER)
    forced = desk.get(f"{ROOT}/sign-out", headers={**HTML, "Sec-Fetch-Site": "cross-site"})
    assert "set-cookie" not in forced.headers
    assert desk.get(f"{ROOT}/", headers=BROWSER).status_code == 200
    left = desk.get(f"{ROOT}/sign-out", headers=BROWSER)
    assert (left.status_code, left.headers["location"]) == (303, f"{ROOT}/")
    assert desk.get(f"{ROOT}/", headers=BROWSER).status_code == 401


def test_an_administrator_retries_and_aborts_jobs(office):
    desk, own = office.desk, {"Origin": "http://desk.test"}
    desk.post(f"{ROOT}/sign-in", data={"token": desk.token("admin")}, headers=BROWSER)
    waiting = [id_ for id_ in office.ids if id_ not in office.begun]
    assert desk.post(office.path(waiting[0], "/abort"), headers=own).status_code == 200
    assert desk.post(office.path(waiting[1], "/retry"), by="admin").status_code == 200

    async def runs(id_):
        async with asyncio.timeout(60):
            while id_ not in office.begun:  # noqa: ASYNC110  the worker has its own pace
                await asyncio.sleep(0.01)

    office.gate.set()
    desk.run(runs(waiting[1]))
    assert waiting[0] not in office.begun
    desk.run(office.queue.enqueue([waiting[0]]))  # as it comes back with its message's lease
    desk.run(runs(waiting[0]))


def test_what_is_not_there_is_not_found(office, refused):
    get = office.desk.get
    refused(get(f"{ROOT}/api/queues/other", by="admin"), 404, "not_found")
    refused(get(office.path(uuid4()), by="admin"), 404, "not_found")
    refused(get(f"{ROOT}/static/other.js", by="admin"), 404, "not_found")
    answer = office.desk.post(office.path(uuid4(), "/retry"), by="admin")
    refused(answer, 404, "not_found")


def test_without_redis_the_answer_is_503(open_desk, refused):
    with own_redis() as server:
        queue = SaqQueue(server.url)
        desk = open_desk(queues=QueueBoard(queue))
        assert desk.get(f"{ROOT}/api/queues", by="admin").status_code == 200
        server.stop()
        for path in ("", "/%7Bsavannah%7D", "/%7Bsavannah%7D/jobs/x"):
            answer = desk.get(f"{ROOT}/api/queues{path}", by="admin")
            refused(answer, 503, "service_unavailable")
        assert desk.get(f"{ROOT}/", by="admin").status_code == 200  # the page says so itself
        desk.run(queue.close())
