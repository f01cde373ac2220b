"""What an operator can set: environment variables, or a `.env` file in the working folder.

The only reader of the environment. Everything is checked at once and becomes one frozen value that
is passed on; what a setting does is decided by whoever receives it.
"""

from __future__ import annotations

import hmac
import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from savannah.application.business import Business
from savannah.domain.access import Role
from savannah.domain.money import DEFAULT_CURRENCIES
from savannah.domain.notification_policy import BudgetAction, Policy, Rate
from savannah.domain.sms_text import Locale
from savannah.domain.trusted_issuers import TrustedIssuer
from savannah.entrypoints import variables as kinds
from savannah.entrypoints.issuers import TRUSTED_ISSUERS, is_loopback
from savannah.entrypoints.variables import Problem, Variables

LIVE_GATEWAY: Final = "https://api.africastalking.com"
SANDBOX_GATEWAY: Final = "https://api.sandbox.africastalking.com"
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
SECRET_KEY_LEAST: Final = 32


class SettingsError(Exception):
    """Variables that cannot be used: each with its rule, never with its value."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{name}: {rule}" for name, rule in self.problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Where texts go. Without `base_url` they go to the simulated gateway of this process."""

    base_url: str | None
    username: str
    api_key: str | None = field(repr=False)
    sender_id: str | None
    connect_timeout: timedelta
    read_timeout: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, checked.

    Attributes:
        embedded: storage is a file of this machine, and needs no server.
    """

    debug: bool
    secret_key: str | None = field(repr=False)
    allowed_hosts: tuple[str, ...] | None
    data_dir: Path
    embedded: bool
    database_url: str = field(repr=False)
    database_replica_urls: tuple[str, ...] = field(repr=False)
    redis_url: str | None = field(repr=False)
    database_pool_size: int
    database_prepared_statements: bool
    gateway: GatewaySettings
    callback_token: str | None = field(repr=False)
    public_url: str | None
    access_token_ttl: timedelta
    refresh_grace: timedelta
    cors_origins: tuple[str, ...]
    business: Business
    registration_open: bool
    registration_role: Role
    app_creation_open: bool
    login_lock: Rate | None
    login_retention: timedelta
    report_retention: timedelta
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    rate_limit: Rate | None
    rate_limit_auth: Rate | None
    require_if_match: bool
    request_timeout: timedelta
    client_timeout: timedelta
    max_connections: int
    worker_metrics: tuple[str, int | None]
    otlp_endpoint: str | None
    sentry_dsn: str | None = field(repr=False)
    trusted_issuers: tuple[TrustedIssuer, ...]
    log_level: str
    log_format: str | None

    @property
    def has_workers(self) -> bool:
        """Whether jobs are carried by `savannah worker` processes, over Redis."""
        return self.redis_url is not None and not self.embedded

    @property
    def wakes_by_database(self) -> bool:
        """Whether processes tell each other through Postgres that something is due.

        Nobody can listen behind PgBouncer; there relays look every second.
        """
        return not self.embedded and not self.has_workers and self.database_prepared_statements

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names this service answers to."""
        if self.allowed_hosts is not None:
            return self.allowed_hosts
        if self.debug:
            return ("*",)
        public = urlsplit(self.public_url or "").hostname
        return (*LOCAL_HOSTS, public) if public and public not in LOCAL_HOSTS else LOCAL_HOSTS

    def prepared(self) -> Settings:
        """The same with its folders made, and a secret key: one made once and kept there.

        Raises:
            SettingsError: a folder cannot be used.
        """
        folder, key = Path(self.database_url.removeprefix("sqlite:///")).parent, self.secret_key
        name = "SAVANNAH_DATA_DIR" if folder == self.data_dir else "DATABASE_URL"
        try:
            if self.embedded:
                _make_folder(folder)
            name = "SAVANNAH_DATA_DIR"
            if key is None:
                _make_folder(self.data_dir)
                key = _kept_key(self.data_dir / "secret-key")
        except OSError as error:
            rule = f"must lie in a folder that can be written to ({error.strerror})"
            raise SettingsError([(name, rule)]) from error
        return replace(self, secret_key=key)

    def derived_key(self, purpose: str) -> bytes:
        """32 bytes for one purpose, which tell nothing about the secret key or each other."""
        if self.secret_key is None:
            raise RuntimeError("the settings were not prepared")
        return hmac.digest(self.secret_key.encode(), f"savannah:{purpose}".encode(), "sha256")

    @property
    def callback_secret(self) -> str:
        """The unguessable part of the callback URLs."""
        return self.callback_token or self.derived_key("callbacks").hex()[:40]

    def sending_problems(self) -> list[Problem]:
        """Why this process could not send texts."""
        gateway = self.gateway
        if gateway.api_key is not None:
            return []
        if gateway.base_url is None:
            return [] if self.embedded else [("AFRICAS_TALKING_API_KEY", _KEY_RULE)]
        return [] if is_loopback(gateway.base_url) else [("AFRICAS_TALKING_API_KEY", _KEY_RULE)]

    def missing_extras(self) -> list[Problem]:
        """Settings that ask for a library which is not installed."""
        wanted = (
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.otlp_endpoint, "opentelemetry.sdk", "otel"),
            ("SENTRY_DSN", self.sentry_dsn, "sentry_sdk", "sentry"),
        )
        return [
            (name, f"is set, and needs what is not installed: pip install 'savannah[{extra}]'")
            for name, value, module, extra in wanted
            if value is not None and not _is_installed(module)
        ]

    def remarks(self) -> list[str]:
        """What an operator should hear at start, in whole sentences."""
        doors = {
            "REGISTRATION": self.registration_open,
            "APP_CREATION": self.app_creation_open,
        }
        found = [
            f"{name} is open: anybody who reaches this service may use it"
            for name, is_open in doors.items()
            if is_open and not self.debug
        ]
        if not self.debug and not self.trusted_proxies:
            found.append(
                "TRUSTED_PROXIES is empty: whoever comes through a proxy is sent to https for ever"
            )
        return found


_KEY_RULE: Final = (
    "must be set to send texts; without one, AFRICAS_TALKING_BASE_URL must be a simulated gateway "
    "on this machine"
)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package it is in
        return False


def load(folder: Path | None = None) -> Settings:
    """The settings from the environment and, below it, the `.env` file in the working folder.

    Raises:
        SettingsError: naming every variable that cannot be used.
    """
    return parse(_variables(folder or Path.cwd()))


def strangers(folder: Path | None = None) -> list[tuple[str, str | None]]:
    """Names in the `.env` file that are no settings, each with the one that may be meant."""
    from difflib import get_close_matches

    known = {*known_variables(), "SAVANNAH_SUPERUSER_PASSWORD"}
    names = [
        name
        for name in _dotenv((folder or Path.cwd()) / ".env")
        if name not in known and not name.startswith("OTEL_")  # the SDK has many of its own
    ]
    return [(name, next(iter(get_close_matches(name, known, 1)), None)) for name in names]


def superuser_password() -> str | None:
    """The password for `createsuperuser`, for those who have no terminal to ask at."""
    return _variables(Path.cwd()).get("SAVANNAH_SUPERUSER_PASSWORD") or None


def environment_for_child(**settings: str) -> dict[str, str]:
    """This process's environment with these settings and no other ones of ours."""
    ours = {*known_variables(), "SAVANNAH_SUPERUSER_PASSWORD"}
    inherited = {name: value for name, value in _environment().items() if name not in ours}
    return inherited | settings


def share_metrics_in(folder: str) -> None:
    """Let the processes of one server count together, see `shared_metrics`."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # noqa: TID251  it knows no other way


def shared_metrics() -> Path:
    """The folder that `share_metrics_in` has set."""
    return Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])  # noqa: TID251  as above


def _environment() -> Mapping[str, str]:
    return os.environ  # noqa: TID251  this is the one place


def _variables(folder: Path) -> dict[str, str]:
    return {**_dotenv(folder / ".env"), **{k: v for k, v in _environment().items() if v.strip()}}


def _dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    from dotenv.parser import parse_stream  # slow to load, and mostly not needed

    try:
        with path.open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([(".env", "must be a readable text file in UTF-8")]) from error
    bad = [binding.original.line for binding in bindings if binding.error]
    if bad:
        raise SettingsError((".env", f"line {line} must be written NAME=value") for line in bad)
    return {each.key: each.value for each in bindings if each.key and each.value}


def known_variables() -> tuple[str, ...]:
    """The names of all settings, in the order in which they are read."""
    variables = Variables({})
    _read(variables)
    return tuple(variables.asked)


def parse(values: Mapping[str, str]) -> Settings:
    """Settings from variables. An empty one counts as unset.

    Raises:
        SettingsError: naming every variable that cannot be used.
    """
    variables = Variables(values)
    settings = _read(variables)
    if variables.problems:
        raise SettingsError(variables.problems)
    return settings


def _read(variables: Variables) -> Settings:
    take = variables.take
    data_dir = take("SAVANNAH_DATA_DIR", kinds.FOLDER, Path.cwd() / "savannah-data")
    database_url = take("DATABASE_URL", kinds.DATABASE_URL, f"sqlite:///{data_dir / 'savannah.db'}")
    embedded = database_url.startswith("sqlite")
    replicas = take("DATABASE_REPLICA_URLS", kinds.SERVER_URLS, ())
    debug = take("DEBUG", kinds.FLAG, embedded)
    secret_key = take("SECRET_KEY", kinds.TEXT, None)
    settings = Settings(
        debug=debug,
        secret_key=secret_key,
        allowed_hosts=take("ALLOWED_HOSTS", kinds.HOSTS, None),
        data_dir=data_dir,
        embedded=embedded,
        database_url=database_url,
        database_replica_urls=replicas,
        redis_url=take("REDIS_URL", kinds.REDIS_URL, None),
        database_pool_size=take("DATABASE_POOL_SIZE", kinds.whole(1, 500), 10),
        database_prepared_statements=take("DATABASE_PREPARED_STATEMENTS", kinds.FLAG, default=True),
        gateway=_gateway(variables),
        callback_token=take(
            "AFRICAS_TALKING_CALLBACK_TOKEN",
            kinds.plain("[A-Za-z0-9_-]{16,128}", "must be 16 to 128 letters, digits, - or _"),
            None,
        ),
        public_url=take("PUBLIC_URL", kinds.WEB_ADDRESS, None),
        access_token_ttl=take("ACCESS_TOKEN_TTL", kinds.SECONDS, timedelta(hours=1)),
        refresh_grace=timedelta(seconds=take("REFRESH_TOKEN_GRACE_S", kinds.whole(0, 10), 0)),
        cors_origins=take("CORS_ALLOWED_ORIGINS", kinds.ORIGINS, ()),
        business=_business(variables),
        registration_open=take("REGISTRATION", kinds.one_of("open", "closed"), _door(debug))
        == "open",
        registration_role=take(
            "REGISTRATION_ROLE",
            kinds.member(Role, Role.VIEWER, Role.STAFF),
            Role.STAFF if debug else Role.VIEWER,
        ),
        app_creation_open=take("APP_CREATION", kinds.one_of("open", "admin"), _door(debug))
        == "open",
        login_lock=take("LOGIN_LOCK", kinds.RATE, Rate(5, timedelta(minutes=15))),
        login_retention=take("LOGIN_RETENTION_DAYS", kinds.DAYS, timedelta(days=90)),
        report_retention=take("SMS_REPORT_RETENTION_DAYS", kinds.DAYS, timedelta(days=30)),
        trusted_proxies=take("TRUSTED_PROXIES", kinds.NETWORKS, ()),
        rate_limit=take("RATE_LIMIT", kinds.RATE, Rate(600, timedelta(minutes=1))),
        rate_limit_auth=take("RATE_LIMIT_AUTH", kinds.RATE, Rate(10, timedelta(minutes=1))),
        require_if_match=take("REQUIRE_IF_MATCH", kinds.FLAG, default=False),
        request_timeout=take("REQUEST_TIMEOUT_S", kinds.SECONDS, timedelta(seconds=30)),
        client_timeout=take("CLIENT_TIMEOUT_S", kinds.SECONDS, timedelta(seconds=20)),
        max_connections=take("MAX_CONNECTIONS", kinds.whole(10, 100_000), 1000),
        worker_metrics=(
            take("WORKER_METRICS_HOST", kinds.ADDRESS, "127.0.0.1"),
            take("WORKER_METRICS_PORT", kinds.whole(1, 65_535), None),
        ),
        otlp_endpoint=take("OTEL_EXPORTER_OTLP_ENDPOINT", kinds.WEB_ADDRESS, None),
        sentry_dsn=take("SENTRY_DSN", kinds.SENTRY_DSN, None),
        trusted_issuers=take("OIDC_TRUSTED_ISSUERS", TRUSTED_ISSUERS, ()),
        log_level=take(
            "LOG_LEVEL", kinds.one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "INFO"
        ),
        log_format=take("LOG_FORMAT", kinds.one_of("json", "console"), None),
    )
    if replicas and embedded:
        variables.problems.append(("DATABASE_REPLICA_URLS", "needs a server in DATABASE_URL"))
    for rule, broken in (
        ("must not name this service itself, which PUBLIC_URL does", _names_itself(settings)),
        ("must be https:// addresses when DEBUG is false", not debug and _by_http(settings)),
    ):
        if broken:
            variables.problems.append(("OIDC_TRUSTED_ISSUERS", rule))
    if secret_key is None and not debug and not embedded:
        rule = "must be set when DEBUG is false and DATABASE_URL is a server's"
        variables.problems.append(("SECRET_KEY", rule))
    return settings


def _names_itself(settings: Settings) -> bool:
    own = settings.public_url
    return own is not None and own in {each.issuer.rstrip("/") for each in settings.trusted_issuers}


def _by_http(settings: Settings) -> bool:
    return any(
        address is not None and address.startswith("http:")
        for each in settings.trusted_issuers
        for address in (each.issuer, each.jwks_uri)
    )


def _door(debug: bool) -> str:
    return "open" if debug else "closed"


def _business(variables: Variables) -> Business:
    take = variables.take
    currencies = take("ALLOWED_CURRENCIES", kinds.CURRENCIES, DEFAULT_CURRENCIES)
    currency = take("DEFAULT_CURRENCY", kinds.one_of(*currencies), None)
    if currency is None and "KES" not in currencies:
        variables.problems.append(("DEFAULT_CURRENCY", "must be one of ALLOWED_CURRENCIES"))
    usual = Policy()
    return Business(
        region=take("DEFAULT_PHONE_REGION", kinds.REGION, "KE"),
        currency=currency or "KES",
        currencies=currencies,
        locale=take("DEFAULT_LOCALE", kinds.member(Locale), Locale.EN),
        policy=Policy(
            quiet_hours=take("QUIET_HOURS", kinds.QUIET_HOURS, None),
            phone_limit=take("SMS_PHONE_LIMIT", kinds.RATE, usual.phone_limit),
            budget_daily=take("SMS_BUDGET_DAILY", kinds.BUDGET, None),
            budget_monthly=take("SMS_BUDGET_MONTHLY", kinds.BUDGET, None),
            budget_action=take(
                "SMS_BUDGET_ACTION", kinds.member(BudgetAction), usual.budget_action
            ),
            max_segments=take("SMS_MAX_SEGMENTS", kinds.whole(1, 10), usual.max_segments),
            max_attempts=take("SMS_MAX_ATTEMPTS", kinds.whole(1, 100), usual.max_attempts),
            retry_base=take("SMS_RETRY_BASE_S", kinds.SECONDS, usual.retry_base),
            pause=take("SMS_PAUSE_S", kinds.SECONDS, usual.pause),
            unknown_wait=take("SMS_UNKNOWN_WAIT_S", kinds.SECONDS, usual.unknown_wait),
            resend_unknown=take("SMS_UNKNOWN", kinds.one_of("hold", "resend"), "hold") == "resend",
            zone=take("TIME_ZONE", kinds.ZONE, usual.zone),
        ),
    )


def _gateway(variables: Variables) -> GatewaySettings:
    take = variables.take
    username = take("AFRICAS_TALKING_USERNAME", kinds.TEXT, "sandbox")
    api_key = take(
        "AFRICAS_TALKING_API_KEY",
        kinds.plain("[!-~]+", "must be letters, digits and signs without blanks"),
        None,
    )
    vendor = SANDBOX_GATEWAY if username == "sandbox" else LIVE_GATEWAY
    connect, read = take(
        "SMS_TIMEOUT_S", kinds.TIMEOUTS, (timedelta(seconds=3), timedelta(seconds=10))
    )
    return GatewaySettings(
        base_url=take("AFRICAS_TALKING_BASE_URL", kinds.WEB_ADDRESS, vendor if api_key else None),
        username=username,
        api_key=api_key,
        sender_id=take(
            "AFRICAS_TALKING_SENDER_ID",
            kinds.plain("[ -~]{1,20}", "must be a short code or a name of up to 20 characters"),
            None,
        ),
        connect_timeout=connect,
        read_timeout=read,
    )


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _kept_key(path: Path) -> str:
    """The key in that file; the first of several starters makes it for all."""
    if not path.exists():
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".secret-key-")  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(48))
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # appears complete, or not at all when somebody was faster
        except FileExistsError:
            pass
        finally:
            Path(draft).unlink()
    key = path.read_text(encoding="ascii").strip()
    if len(key) < SECRET_KEY_LEAST:
        raise SettingsError([("SECRET_KEY", f"the one kept in {path} is damaged: remove the file")])
    return key
