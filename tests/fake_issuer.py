"""An issuer of our own on a real socket: its keys, its tokens, and every fault it can have."""

from __future__ import annotations

import base64
import json
import threading
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/keys"
AUDIENCE = "savannah"

Key = RSAKey | ECKey | OctKey


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> RSAKey:
    """A key pair with that number; making one takes a tenth of a second, so each is made once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are too short on purpose
        return RSAKey.generate_key(bits, {"kid": f"rsa-{number}", "use": "sig", "alg": "RS256"})


@cache
def ec_key(curve: str = "P-256") -> ECKey:
    return ECKey.generate_key(curve, {"kid": f"ec-{curve}", "use": "sig"})


def public(key: Key, **more: object) -> dict[str, object]:
    """A key as a key set shows it; members of `more` that are None are left out."""
    shown = {**key.as_dict(private=False), **more}
    return {name: value for name, value in shown.items() if value is not None}


def encoded(part: object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class FakeIssuer:
    """Serves a discovery document and a key set, counts who asks, and signs tokens.

    Attributes:
        keys: the members of the key set.
        document: what the discovery document says.
        pages: answers in place of the usual ones: status, headers and body by path.
        open: cleared, answers wait until it is set again.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.open = threading.Event()
        self.open.set()
        self.pages: dict[str, tuple[int, Mapping[str, str], bytes]] = {}
        self.cache_control: str | None = None
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked[self.path] += 1
                issuer.open.wait(30)
                status, headers, body = issuer.answer(self.path)
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # whoever asked has gone
                    pass

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.keys: list[object] = [public(rsa_key())]
        self.document: dict[str, object] = {"issuer": self.url, "jwks_uri": f"{self.url}{JWKS}"}
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Be gone: connections are refused from now on."""
        self.open.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def fetches(self) -> int:
        """How often somebody read the keys."""
        return self.asked[JWKS]

    def answer(self, path: str) -> tuple[int, Mapping[str, str], bytes]:
        if path in self.pages:
            return self.pages[path]
        headers = {"Content-Type": "application/json"}
        if self.cache_control is not None:
            headers["Cache-Control"] = self.cache_control
        known = {DISCOVERY: self.document, JWKS: {"keys": self.keys}}
        if path not in known:
            return 404, {}, b""
        return 200, headers, json.dumps(known[path]).encode()

    def token(
        self,
        claims: Mapping[str, object],
        *,
        key: Key | None = None,
        alg: str = "RS256",
        header: Mapping[str, Any] | None = None,
    ) -> str:
        """A signed token; members of `header` that are None are left out."""
        key = key or rsa_key()
        whole = {"alg": alg, "typ": "at+jwt", "kid": key.kid, **(header or {})}
        return signed(whole, json.dumps(claims).encode(), key)


def signed(header: Mapping[str, Any], payload: bytes, key: Key) -> str:
    """Signed as the header says, whatever else it says: no library stands in the way."""
    whole = {name: value for name, value in header.items() if value is not None}
    signing = f"{encoded(whole)}.{encoded(payload)}".encode()
    model = jws.JWSRegistry.algorithms[whole["alg"]]
    return f"{signing.decode()}.{encoded(model.sign(signing, key))}"
