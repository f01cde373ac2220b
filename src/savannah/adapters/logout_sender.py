"""Telling apps over HTTP that a session is over (OpenID Connect Back-Channel Logout 1.0).

The address is somebody else's choice, so it must not become a way into our own network: the name
is looked up here, every address behind it has to be a public one, and the request goes to the
address that was checked.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

import httpx

from savannah.application.ports import LogoutSender

_log = logging.getLogger("savannah.logout")

_TIMEOUT_S: Final = 5.0
# Addresses of IPv6 that a network may turn into one of IPv4, private ones among them: RFC 6052 and
# RFC 8215 (NAT64), RFC 3056 (6to4), RFC 4291 section 2.5.5.1; and RFC 3879 (site-local).
_NOT_PUBLIC: Final = tuple(
    map(IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "::/96", "fec0::/10"))
)


class HttpLogoutSender(LogoutSender):
    """Posts logout tokens; follows no redirect.

    Args:
        allow_loopback: apps on this very machine may be told too, without https; for development.
    """

    def __init__(self, *, allow_loopback: bool = False) -> None:
        self._allow_loopback = allow_loopback
        self._client: httpx.AsyncClient | None = None

    async def send(self, uri: str, logout_token: str) -> bool:
        try:
            async with asyncio.timeout(2 * _TIMEOUT_S):
                status = await self._post(uri, logout_token)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, TimeoutError) as error:
            reason = type(error).__name__
            _log.warning("an app was not told of a logout", extra={"reason": reason})
            return False
        if status not in (200, 204):
            _log.warning("an app did not take a logout token", extra={"status": status})
        return status in (200, 204)

    async def _post(self, uri: str, logout_token: str) -> int:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        address = await self._checked_address(host, port, parts.scheme)
        spelled = f"[{address}]" if ":" in address else address
        target = parts._replace(netloc=f"{spelled}:{port}").geturl()
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=_TIMEOUT_S,
                follow_redirects=False,
                trust_env=False,  # a proxy of the environment would look the name up anew
                # A connection is known by its address: kept, it would carry what is meant for
                # another name there, whose certificate nobody has seen.
                limits=httpx.Limits(max_keepalive_connections=0),
            )
        async with self._client.stream(
            "POST",
            target,
            data={"logout_token": logout_token},
            headers={"Host": parts.netloc.rpartition("@")[2]},
            extensions={"sni_hostname": host},
        ) as answer:
            return answer.status_code  # nobody needs the body, however long it is

    async def _checked_address(self, host: str, port: int, scheme: str) -> str:
        """Where the name leads, if that is no private place. Raises: ValueError, OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [ip_address(each[4][0]) for each in found]
        here = self._allow_loopback and all(each.is_loopback for each in addresses)
        if not here and (scheme != "https" or not all(map(is_public, addresses))):
            raise ValueError("not a public https address")
        return str(addresses[0])

    async def aclose(self) -> None:
        """Give the connections back."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether this is the address of one machine that all the world may call."""
    if isinstance(address, IPv6Address) and any(address in each for each in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast
