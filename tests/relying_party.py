"""An app and a browser in front of the OpenID provider, as strict as a certified client.

They speak HTTP to the built application; no use case is called here.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import KeySet

from savannah.domain.access import Caller
from savannah.domain.clients import ClientMetadata

CALLBACK = "https://app.example/callback?x=1"
VERIFIER = "a-verifier-of-forty-three-characters-or-more"
PASSWORD = "securepassword123"
NONCE = "n" * 43


def challenge(verifier: str = VERIFIER) -> str:
    hashed = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()


class Form(HTMLParser):
    """The form of a page: where it goes and what is in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.labelled: set[str] = set()
        self.lang: str | None = None
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "html":
            self.lang = found.get("lang")
        if tag == "form":
            self.action = found["action"]
            assert found["method"] == "post"
        if tag == "input":
            self.fields[found["name"]] = found.get("value", "")
        if tag == "label":
            self.labelled.add(found["for"])
        if tag == "script":
            self.scripts += 1


class Browser:
    """Follows redirects within the provider, keeps its cookies, and stops at other people's."""

    def __init__(self, desk: Any, *, address: str = "10.9.8.7", language: str = "en") -> None:
        self.desk = desk
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(desk.app, client=(address, 50000)),
            base_url=desk.issuer,
            headers={"Accept-Language": language},
        )

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self._followed(self.client.build_request("GET", path, **more))

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self._followed(self.client.build_request("POST", path, **more))

    def _followed(self, request: httpx.Request) -> httpx.Response:
        for _ in range(5):
            answer = self.desk.run(self.client.send(request))
            if answer.status_code != 303:
                return answer
            location = answer.headers["location"]
            if not location.startswith(("/", self.desk.issuer)):
                return answer
            request = self.client.build_request("GET", location)
        raise AssertionError("the redirects go round in circles")

    def send(self, page: httpx.Response, **filled: str) -> httpx.Response:
        """Fill in the form of a page and send it."""
        form = Form(page.text)
        assert form.action is not None, page.text
        return self.post(form.action, data={**form.fields, **filled})

    def forget(self) -> None:
        self.client.cookies.clear()


def is_login(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and 'name="password"' in answer.text


def is_consent(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and 'name="decision"' in answer.text


@dataclass
class App:
    """A client as its developer sees it."""

    desk: Any
    client_id: str
    secret: str | None
    method: str = "client_secret_basic"
    callback: str = CALLBACK
    browser: Browser = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.browser = self.browser or Browser(self.desk)

    # --- the browser's side ----------------------------------------------------------------------

    def request(self, **more: str | None) -> dict[str, str]:
        usual = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.callback,
            "scope": "openid",
            "state": "s" * 128,
            "nonce": NONCE,
        }
        return {name: value for name, value in {**usual, **more}.items() if value is not None}

    def authorize(self, *, by: str = "GET", **more: str | None) -> httpx.Response:
        asked = self.request(**more)
        if by == "POST":
            return self.browser.post("/oauth/authorize", data=asked)
        return self.browser.get(f"/oauth/authorize?{urlencode(asked)}")

    def through(
        self, answer: httpx.Response, *, username: str = "johndoe", allow: bool = True
    ) -> dict[str, str]:
        """Log in and consent as far as it is asked for; what comes back to the app."""
        if is_login(answer):
            answer = self.browser.send(answer, username=username, password=PASSWORD)
        if is_consent(answer):
            answer = self.browser.send(answer, decision="allow" if allow else "deny")
        return self.returned(answer)

    def returned(self, answer: httpx.Response) -> dict[str, str]:
        """The parameters that came to the callback, and nowhere else."""
        assert answer.status_code == 303, answer.text
        address = answer.headers["location"]
        assert address.startswith(self.callback + ("&" if "?" in self.callback else "?")), address
        pairs = parse_qsl(urlsplit(address).query, keep_blank_values=True, strict_parsing=True)
        assert len(dict(pairs)) == len(pairs)
        found = dict(pairs)
        if "?" in self.callback:
            assert found.pop("x") == "1"
        assert found["iss"] == self.desk.issuer
        return found

    def code(self, **more: str | None) -> str:
        returned = self.through(self.authorize(**more))
        assert "error" not in returned, returned
        assert returned["state"] == more.get("state", "s" * 128)
        return returned["code"]

    # --- the app's own calls ---------------------------------------------------------------------

    def post(self, path: str, **fields: str | None) -> httpx.Response:
        sent = {name: value for name, value in fields.items() if value is not None}
        auth = None
        if self.method == "client_secret_basic":
            auth = (self.client_id, self.secret or "")
        else:
            sent["client_id"] = self.client_id
            if self.method == "client_secret_post":
                sent["client_secret"] = self.secret or ""
        call = self.browser.client.build_request("POST", path, data=sent)
        if auth is not None:
            raw = base64.b64encode(":".join(auth).encode()).decode()
            call.headers["Authorization"] = f"Basic {raw}"
        call.headers.pop("Cookie", None)
        answer = self.desk.run(self.browser.client.send(call))
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["pragma"] == "no-cache"
        return answer

    def redeem(self, code: str, **more: str | None) -> httpx.Response:
        usual = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.callback,
        }
        return self.post("/oauth/token", **{**usual, **more})

    def tokens(self, *, verifier: str | None = None, **more: str | None) -> dict[str, Any]:
        """A whole flow; the token response, checked."""
        answer = self.redeem(self.code(**more), code_verifier=verifier)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["token_type"] == "Bearer"
        assert type(found["expires_in"]) is int
        if "id_token" in found:
            found["claims"] = self.id_claims(found, nonce=more.get("nonce", NONCE))
        return found

    def refresh(self, refresh_token: str, **more: str | None) -> httpx.Response:
        return self.post(
            "/oauth/token", grant_type="refresh_token", refresh_token=refresh_token, **more
        )

    def keys(self) -> dict[str, Any]:
        return self.browser.get("/oauth/jwks").json()

    def id_claims(self, response: dict[str, Any], *, nonce: str | None) -> dict[str, Any]:
        """An ID token as OpenID Connect Core section 3.1.3.7 wants it checked."""
        token = jwt.decode(
            response["id_token"], KeySet.import_key_set(self.keys()), algorithms=["RS256"]
        )
        claims, now = token.claims, self.desk.clock.now().timestamp()
        assert token.header["kid"] in {key["kid"] for key in self.keys()["keys"]}
        assert claims["iss"] == self.desk.issuer
        assert claims["aud"] == self.client_id
        assert claims["iat"] <= now < claims["exp"] <= claims["iat"] + 3600
        assert claims["auth_time"] <= now
        assert claims.get("nonce") == nonce
        assert claims["sub"].isascii()
        assert all(value != "" for value in claims.values())
        left = hashlib.sha256(response["access_token"].encode()).digest()[:16]
        assert claims["at_hash"] == base64.urlsafe_b64encode(left).rstrip(b"=").decode()
        return claims

    def userinfo(self, access_token: str, *, by: str = "GET") -> httpx.Response:
        call = self.browser.client.build_request(
            by, "/oauth/userinfo", headers={"Authorization": f"Bearer {access_token}"}
        )
        return self.desk.run(self.browser.client.send(call))


async def _made_app(desk: Any, fields: dict[str, Any], metadata: dict[str, Any]) -> Any:
    client, secret = await desk.identity.apps.create_client(
        **{
            "name": "My <App> & Co",
            "redirect_uris": [CALLBACK],
            "by": Caller.admin("tests"),
            "first_party": False,
            **fields,
        }
    )
    usual = {"require_pkce": False}
    client = replace(client, metadata=ClientMetadata(**{**usual, **metadata}))
    async with desk.storage() as uow:
        await uow.clients.save(client)
        await uow.commit()
    return client, secret


def new_app(desk: Any, *, metadata: dict[str, Any] | None = None, **fields: Any) -> App:
    """An app that another company runs, with the PKCE opt-out of the certification suite."""
    client, secret = desk.run(_made_app(desk, fields, metadata or {}))
    method = "client_secret_basic" if secret else "none"
    callback = (*client.redirect_uris, CALLBACK)[0]
    return App(desk, client.client_id, secret, method=method, callback=callback)


def register(desk: Any, username: str = "johndoe", **more: str) -> Any:
    fields = {
        "email": f"{username}@example.com",
        "password": PASSWORD,
        "first_name": "John",
        "last_name": "Doe",
    }
    return desk.run(desk.identity.accounts.register(username=username, **{**fields, **more}))
