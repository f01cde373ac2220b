"""Which settings must not go to production, and which to look at: `savannah check --deploy`."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from savannah.entrypoints import variables as kinds
from savannah.entrypoints.issuers import is_loopback
from savannah.entrypoints.settings import SANDBOX_GATEWAY, SECRET_KEY_LEAST, Settings
from savannah.entrypoints.variables import Problem

_TLS_RULE: Final = "must end in ?sslmode=require or better, since the server is another machine"
# Of keys that everybody can read: in examples, ours too, and in Django's.
_KNOWN_WORDS: Final = (
    "insecure",
    "changeme",
    "change-me",
    "example",
    "development-only",
    "nobody can guess",
)


def unsafe(settings: Settings) -> list[Problem]:
    """What must not go to production."""
    key = settings.secret_key or ""
    gateway = settings.gateway
    checks = (
        ("DEBUG", settings.debug, "must be false"),
        (
            "SECRET_KEY",
            _is_weak(key),
            f"must be set to at least {SECRET_KEY_LEAST} characters that nobody can guess",
        ),
        (
            "ALLOWED_HOSTS",
            settings.allowed_hosts is None or "*" in settings.allowed_hosts,
            "must name the hosts this service answers to",
        ),
        (
            "PUBLIC_URL",
            not (settings.public_url or "").startswith("https://"),
            "must be the https:// address callers use",
        ),
        ("REGISTRATION", settings.registration_open, "must be closed"),
        ("APP_CREATION", settings.app_creation_open, "must be admin"),
        ("RATE_LIMIT", settings.rate_limit is None, "must not be off"),
        ("RATE_LIMIT_AUTH", settings.rate_limit_auth is None, "must not be off"),
        ("LOGIN_LOCK", settings.login_lock is None, "must not be off"),
        (
            "CORS_ALLOWED_ORIGINS",
            any(not origin.startswith("https://") for origin in settings.cors_origins),
            "must be https:// origins, and not *",
        ),
        (
            "TRUSTED_PROXIES",
            any(_is_wide(network) for network in settings.trusted_proxies),
            "must name your own proxies: anybody could claim any address",
        ),
        (
            "DATABASE_URL",
            not _is_encrypted(settings.database_url),
            _TLS_RULE,
        ),
        (
            "DATABASE_REPLICA_URLS",
            not all(map(_is_encrypted, settings.database_replica_urls)),
            _TLS_RULE,
        ),
        (
            "AFRICAS_TALKING_USERNAME",
            gateway.username == "sandbox" or gateway.base_url == SANDBOX_GATEWAY,
            "must be a live account: the sandbox reaches no phone",
        ),
        ("AFRICAS_TALKING_API_KEY", gateway.api_key is None, "must be set"),
        (
            "AFRICAS_TALKING_BASE_URL",
            (gateway.base_url or "").startswith("http:") and not is_loopback(gateway.base_url),
            "must be https://, since the API key travels there",
        ),
    )
    return [(name, rule) for name, broken, rule in checks if broken]


def doubts(settings: Settings) -> list[str]:
    """What may well be right in production, and should be looked at all the same."""
    redis = settings.redis_url or "rediss://"
    nearby = all(map(_is_local, kinds.redis_hosts(redis)))
    public = urlsplit(settings.public_url or "").hostname
    found = (
        (
            not redis.startswith("rediss") and not nearby,
            "REDIS_URL is not encrypted: write rediss:// unless the network is your own",
        ),
        (
            public is not None and not kinds.is_host_of(public, settings.hosts),
            "PUBLIC_URL has a host that ALLOWED_HOSTS leaves out: calls to it are refused",
        ),
        (
            settings.callback_token is None,
            "AFRICAS_TALKING_CALLBACK_TOKEN is derived: it changes with SECRET_KEY",
        ),
        (
            is_loopback(settings.gateway.base_url),
            "AFRICAS_TALKING_BASE_URL is on this machine: a simulated gateway reaches no phone",
        ),
        (settings.embedded, "DATABASE_URL is a file of this machine: back it up"),
        (settings.log_level == "DEBUG", "LOG_LEVEL is DEBUG: lines are many"),
        *(
            (
                (address or "").startswith("http:") and not is_loopback(address),
                f"{name} is not encrypted",
            )
            for name, address in (
                ("OTEL_EXPORTER_OTLP_ENDPOINT", settings.otlp_endpoint),
                ("SENTRY_DSN", settings.sentry_dsn),
            )
        ),
    )
    return [remark for doubtful, remark in found if doubtful]


def _is_weak(key: str) -> bool:
    few = len(set(key)) < SECRET_KEY_LEAST // 4
    copied = any(word in key.lower() for word in _KNOWN_WORDS)
    return len(key) < SECRET_KEY_LEAST or few or copied


def _is_wide(network: IPv4Network | IPv6Network) -> bool:
    """Whether it holds more than the largest private networks do (10/8, fc00::/7)."""
    return network.prefixlen < (8 if network.version == 4 else 7)


def _is_encrypted(url: str) -> bool:
    """Whether nobody on the way to a database can read along, as far as a URL tells.

    A name without a dot is one of a private network, such as that of containers.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    host = parts.hostname or options.get("host", "/")
    if url.startswith("sqlite") or host.startswith("/") or _is_local(host):
        return True
    if not any(mark in host for mark in ".:"):
        return True
    return options.get("sslmode") in ("require", "verify-ca", "verify-full")


def _is_local(host: str) -> bool:
    return is_loopback(f"//[{host}]" if host.count(":") > 1 and "[" not in host else f"//{host}")
