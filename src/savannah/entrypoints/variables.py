"""How settings are written: the kinds of value an operator can give, each with its rule.

A rule is what the operator is told when a value is refused; the value itself is never repeated.
Which settings there are, and their defaults, is in `settings`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final, Generic, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit
from zoneinfo import ZoneInfo

from savannah.domain.notification import COST_UNITS
from savannah.domain.notification_policy import QuietHours, Rate

T = TypeVar("T")
D = TypeVar("D")
E = TypeVar("E", bound=StrEnum)

Problem = tuple[str, str]  # a variable's name and the rule it breaks

# What asyncpg does not know of libpq's words would go to the server, which refuses it.
# Source: https://www.postgresql.org/docs/current/libpq-connect.html
_SERVER_FILES: Final = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})
_SERVER_OPTIONS: Final = _SERVER_FILES | {"host", "port", "sslmode", "target_session_attrs"}
_REDIS_FILES: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_LONGEST_S: Final = 366 * 86_400
_TRUTH: Final = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(
    ("false", "0", "no", "off"), False
)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One way to write a value; `read` raises ValueError or KeyError for anything else."""

    rule: str
    read: Callable[[str], T]


class Refusal(ValueError):
    """Of a value with many parts: says which of them breaks which rule, in place of the rule."""


class Variables:
    """Takes variables one by one and remembers what is wrong with them; an empty one is unset."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.asked: list[str] = []
        self.problems: list[Problem] = []

    def is_set(self, name: str) -> bool:
        return bool(self._values.get(name, "").strip())

    def take(self, name: str, kind: Kind[T], default: D) -> T | D:
        """The value; the default for one that is unset or, having noted that, refused."""
        self.asked.append(name)
        if not self.is_set(name):
            return default
        try:
            return kind.read(self._values[name].strip())
        except Refusal as refusal:
            self.problems.append((name, str(refusal)))
        except (ValueError, KeyError):
            self.problems.append((name, kind.rule))
        return default


def whole(least: int, most: int) -> Kind[int]:
    def read(raw: str) -> int:
        number = int(_matching(raw, "[0-9]{1,12}"))
        if not least <= number <= most:
            raise ValueError
        return number

    return Kind(f"must be a whole number from {least} to {most}", read)


def one_of(*words: str) -> Kind[str]:
    """One of some words, in small or capital letters."""
    meant = {word.lower(): word for word in words}
    return Kind(f"must be {' or '.join(words)}", lambda raw: meant[raw.lower()])


def member(kind: type[E], *allowed: E) -> Kind[E]:
    """One value of an enumeration, or of these of its values."""
    words = one_of(*(allowed or kind))
    return Kind(words.rule, lambda raw: kind(words.read(raw)))


def plain(pattern: str, rule: str) -> Kind[str]:
    return Kind(rule, lambda raw: _matching(raw, pattern))


def _matching(raw: str, pattern: str) -> str:
    if not re.fullmatch(pattern, raw):
        raise ValueError
    return raw


def _listed(read: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Reads one or more values between commas."""

    def read_all(raw: str) -> tuple[T, ...]:
        found = tuple(read(each.strip()) for each in raw.split(",") if each.strip())
        if not found:
            raise ValueError
        return found

    return read_all


def _seconds(raw: str) -> timedelta:
    number = float(_matching(raw, r"[0-9]{1,9}(\.[0-9]{1,6})?"))
    if not 0 < number <= _LONGEST_S:
        raise ValueError
    return timedelta(seconds=number)


def _days(raw: str) -> timedelta:
    return timedelta(days=whole(1, 3650).read(raw))


def _timeouts(raw: str) -> tuple[timedelta, timedelta]:
    connect, read = raw.split(",")
    return _seconds(connect.strip()), _seconds(read.strip())


def _budget(raw: str) -> int:
    units, _, fraction = _matching(raw, r"[0-9]{1,9}(\.[0-9]{1,4})?").partition(".")
    found = int(units) * COST_UNITS + int(fraction.ljust(4, "0"))
    if found == 0:
        raise ValueError
    return found


def _zone(raw: str) -> ZoneInfo:
    try:
        return ZoneInfo(raw)
    except OSError as error:  # a name that is a folder of the zone data
        raise ValueError from error


def _region(raw: str) -> str:
    region = _matching(raw.upper(), "[A-Z]{2}")
    if region != "KE":
        import phonenumbers  # slow to load, and most desks are Kenyan

        if not phonenumbers.country_code_for_region(region):
            raise ValueError
    return region


def _folder(raw: str) -> Path:
    folder = Path(raw).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError
    return folder


def _host(raw: str) -> str:
    return _matching(
        raw.lower(), r"\*|\.?[a-z0-9_]([a-z0-9_.-]*[a-z0-9])?|\[[0-9a-f:]+(\.[0-9.]+)?\]"
    )


def is_host_of(name: str, hosts: Iterable[str]) -> bool:
    """Whether a host name is among those, written as `HOSTS` reads them."""
    name = name.lower()
    return any(
        host in ("*", name) or (host.startswith(".") and f".{name}".endswith(host))
        for host in hosts
    )


def _origin(raw: str) -> str:
    return raw if raw == "*" else _matching(raw.lower().rstrip("/"), r"https?://[^/?#@\s]+")


def _web_address(raw: str) -> str:
    url = urlsplit(_matching(raw, r"https?://[^\s?#]+"))
    if not url.hostname or url.port == 0:
        raise ValueError
    return raw.rstrip("/")


def _sentry_dsn(raw: str) -> str:
    # Source: develop.sentry.dev/sdk/foundations/transport/authentication/#parsing-the-dsn
    url = urlsplit(_matching(raw, r"https?://[A-Za-z0-9]+(:[A-Za-z0-9]*)?@[^\s?#@]+/[0-9]+"))
    if not url.hostname or url.port == 0:
        raise ValueError
    return raw


def _server_url(raw: str) -> str:
    match = re.fullmatch(r"postgres(?:ql)?(?:\+\w+)?(://\S+)", raw)
    url = urlsplit(raw)
    _ = url.port  # raises for one that is no number
    if match is None or not url.path.strip("/") or not (url.hostname or "host=" in url.query):
        raise ValueError
    if not url.query:
        return f"postgresql{match[1]}"
    # asyncpg and its friends say `ssl`.
    options = {
        "sslmode" if name == "ssl" else name: value
        for name, value in parse_qsl(url.query, strict_parsing=True)
    }
    _check_server_options(options)
    address = match[1].partition("?")[0]
    return f"postgresql{address}?{urlencode(options, safe='/:')}"


def _check_names(options: Mapping[str, str], known: Iterable[str]) -> None:
    if not set(options) <= set(known):
        raise Refusal(f"may have these parameters and no others: {', '.join(sorted(known))}")


def _check_files(options: Mapping[str, str], names: Iterable[str]) -> None:
    for name in names:
        if name in options and not Path(options[name]).is_file():
            raise Refusal(f"must name a file that is there as {name}")


def _check_server_options(options: Mapping[str, str]) -> None:
    _check_names(options, _SERVER_OPTIONS)
    mode = options.get("sslmode", "prefer")
    if mode not in _SSL_MODES:
        raise Refusal(f"must have one of these as sslmode: {', '.join(_SSL_MODES)}")
    if mode.startswith("verify") and "sslrootcert" not in options:
        raise Refusal(f"must name a file of certificates as sslrootcert, for sslmode={mode}")
    _check_files(options, _SERVER_FILES)


def _database_url(raw: str) -> str:
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)", raw)
    if match is None:
        return _server_url(raw)
    if match[1] == ":memory:":
        raise ValueError
    return f"sqlite:///{Path(match[1]).absolute()}"


def _redis_url(raw: str) -> str:
    # Not urlsplit, which from Python 3.14 on knows of no brackets behind a comma.
    host = r"([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?"
    servers = rf"(rediss?://([^/?#]*@)?{host}|rediss?\+cluster://([^/?#]*@)?{host}(,{host})*)"
    _matching(raw, rf"{servers}(/[0-9]*)?(\?[^\s#]*)?")
    # How long to wait, and that certificates are verified, is not for the address to say.
    query = raw.partition("?")[2]
    options = dict(parse_qsl(query, strict_parsing=True)) if query else {}
    _check_names(options, _REDIS_FILES)
    if options and not raw.startswith("rediss"):
        raise Refusal("must begin with rediss to have certificates")
    _check_files(options, _REDIS_FILES)
    return raw


def redis_hosts(url: str) -> list[str]:
    """The hosts of a REDIS_URL, with their ports where it has some."""
    return re.split("[/?]", url.partition("://")[2])[0].rpartition("@")[2].split(",")


FLAG: Final = Kind("must be true or false", lambda raw: _TRUTH[raw.lower()])
TEXT: Final = Kind("must be text", str)
SECONDS: Final = Kind("must be a positive number of seconds", _seconds)
DAYS: Final = Kind("must be a whole number of days from 1 to 3650", _days)
RATE: Final[Kind[Rate | None]] = Kind(
    "must be COUNT/PERIOD, such as 20/h, 600/min or 5/15min, or off",
    lambda raw: None if raw.lower() == "off" else Rate.parse(raw),
)
TIMEOUTS: Final = Kind(
    "must be two numbers of seconds, to connect and to read, such as 3,10", _timeouts
)
QUIET_HOURS: Final = Kind("must be HH:MM-HH:MM, such as 21:00-07:00", QuietHours.parse)
BUDGET: Final = Kind("must be an amount in DEFAULT_CURRENCY, such as 1500 or 1500.50", _budget)
ZONE: Final = Kind("must be an IANA time zone, such as Africa/Nairobi", _zone)
REGION: Final = Kind("must be an ISO 3166 country code, such as KE", _region)
CURRENCIES: Final = Kind(
    "must be ISO 4217 codes separated by commas, such as KES,USD",
    _listed(lambda raw: _matching(raw.upper(), "[A-Z]{3}")),
)
FOLDER: Final = Kind("must be a folder", _folder)
HOSTS: Final = Kind(
    "must be host names separated by commas, such as shop.example.com,.example.org, or *",
    _listed(_host),
)
ORIGINS: Final = Kind(
    "must be origins separated by commas, such as https://shop.example.com, or *",
    _listed(_origin),
)
NETWORKS: Final[Kind[tuple[IPv4Network | IPv6Network, ...]]] = Kind(
    "must be networks separated by commas, such as 10.0.0.0/8,fd00::/8",
    _listed(ipaddress.ip_network),
)
WEB_ADDRESS: Final = Kind("must be an http:// or https:// address without query", _web_address)
SENTRY_DSN: Final = Kind("must be https://KEY@host/PROJECT, as Sentry shows it", _sentry_dsn)
ADDRESS: Final = Kind(
    "must be an address of this machine, such as 0.0.0.0",
    lambda raw: _matching(raw, "[A-Za-z0-9.:_-]+"),
)
DATABASE_URL: Final = Kind(
    "must be postgresql://user:password@host:port/name or sqlite:///path/to/file", _database_url
)
SERVER_URLS: Final = Kind(
    "must be postgresql:// addresses separated by commas", _listed(_server_url)
)
REDIS_URL: Final = Kind(
    "must be redis://host:port/number, rediss://… or redis+cluster://host:port,host:port",
    _redis_url,
)
