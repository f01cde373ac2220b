"""Settings: what is read, what is refused and how, and what is kept secret."""

import multiprocessing
import re
import stat
from datetime import time, timedelta
from pathlib import Path

import pytest

from savannah.domain.access import Role
from savannah.domain.notification_policy import BudgetAction, QuietHours, Rate
from savannah.entrypoints import settings as module
from savannah.entrypoints.production import doubts, unsafe
from savannah.entrypoints.settings import (
    LIVE_GATEWAY,
    LOCAL_HOSTS,
    SANDBOX_GATEWAY,
    SettingsError,
    environment_for_child,
    known_variables,
    load,
    parse,
    strangers,
)

SERVER = "postgresql://desk:hunter2@db.example.com:5432/savannah?sslmode=require"
KEY = "kF3xw8Q2mZ7pL0sV5tR9yB4nC6hJ1dGa"
PRODUCTION = {
    "DATABASE_URL": SERVER,
    "SECRET_KEY": KEY,
    "ALLOWED_HOSTS": "orders.example.com",
    "PUBLIC_URL": "https://orders.example.com",
    "AFRICAS_TALKING_USERNAME": "savannah",
    "AFRICAS_TALKING_API_KEY": "atsk_0123456789abcdef",
}


def problems_of(**values: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as refused:
        parse(values)
    return dict(refused.value.problems)


# --- defaults ------------------------------------------------------------------------------------


def test_without_any_variable_it_is_a_development_desk_on_embedded_storage():
    settings = parse({})
    assert settings.embedded
    assert settings.debug
    assert settings.database_url == f"sqlite:///{Path.cwd()}/savannah-data/savannah.db"
    assert settings.gateway.base_url is None
    assert settings.registration_open
    assert settings.registration_role is Role.STAFF
    assert settings.app_creation_open
    assert settings.hosts == ("*",)
    assert settings.login_lock == Rate(5, timedelta(minutes=15))
    assert (settings.business.region, settings.business.currency) == ("KE", "KES")
    assert settings.sending_problems() == []


def test_with_a_database_server_it_is_production_and_closed():
    settings = parse(PRODUCTION)
    assert not settings.embedded
    assert not settings.debug
    assert not settings.registration_open
    assert settings.registration_role is Role.VIEWER
    assert not settings.app_creation_open
    assert settings.hosts == ("orders.example.com",)
    assert unsafe(settings) == []


def test_debug_false_alone_leaves_only_this_machines_names_and_the_public_one():
    assert parse({"DEBUG": "false"}).hosts == LOCAL_HOSTS
    public = parse({"DEBUG": "false", "PUBLIC_URL": "https://desk.example.com/"})
    assert public.hosts == (*LOCAL_HOSTS, "desk.example.com")
    assert public.public_url == "https://desk.example.com"


def test_an_empty_variable_counts_as_unset():
    assert parse(dict.fromkeys(known_variables(), " ")) == parse({})


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("postgres://u:p@h/d", "postgresql://u:p@h/d"),
        (
            "postgresql+asyncpg://u:p@h:5433/d?sslmode=require",
            "postgresql://u:p@h:5433/d?sslmode=require",
        ),
        ("postgresql+psycopg2://u@[::1]/d", "postgresql://u@[::1]/d"),
        ("postgresql:///d?host=/run/postgresql", "postgresql:///d?host=/run/postgresql"),
        ("postgresql+asyncpg://u@h/d?ssl=require", "postgresql://u@h/d?sslmode=require"),
        (
            f"postgres://u@h/d?sslmode=verify-full&sslrootcert={__file__}",
            f"postgresql://u@h/d?sslmode=verify-full&sslrootcert={__file__}",
        ),
        ("sqlite:////srv/desk.db", "sqlite:////srv/desk.db"),
        ("sqlite+aiosqlite:////srv/desk.db", "sqlite:////srv/desk.db"),
        ("sqlite:///desk.db", f"sqlite:///{Path.cwd()}/desk.db"),
    ],
)
def test_every_form_of_a_database_url_is_understood(typed, url):
    assert parse({"DATABASE_URL": typed, "SECRET_KEY": KEY}).database_url == url


@pytest.mark.parametrize(
    ("parameters", "rule"),
    [
        ("connect_timeout=5", "may have these parameters and no others: host, port, sslcert,"),
        ("sslmode=require&channel_binding=require", "may have these parameters and no others"),
        ("sslmode=on", "must have one of these as sslmode: disable,"),
        ("sslmode=verify-full", "must name a file of certificates as sslrootcert"),
        ("sslmode=verify-ca&sslrootcert=/nowhere", "must name a file that is there as sslroot"),
        ("sslmode", "must be postgresql://"),
    ],
)
def test_what_an_address_asks_of_the_connection_is_understood_or_refused(parameters, rule):
    """It came out at the first connection, as a traceback."""
    url = f"postgresql://u:hunter2@db.example.com/d?{parameters}"
    for name in ("DATABASE_URL", "DATABASE_REPLICA_URLS"):
        problems = problems_of(**{"DATABASE_URL": SERVER, "SECRET_KEY": KEY, name: url})
        assert set(problems) == {name}
        assert problems[name].startswith(rule)


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({}, None),
        ({"AFRICAS_TALKING_API_KEY": "k"}, SANDBOX_GATEWAY),
        ({"AFRICAS_TALKING_API_KEY": "k", "AFRICAS_TALKING_USERNAME": "sandbox"}, SANDBOX_GATEWAY),
        ({"AFRICAS_TALKING_API_KEY": "k", "AFRICAS_TALKING_USERNAME": "shop"}, LIVE_GATEWAY),
        ({"AFRICAS_TALKING_BASE_URL": "http://127.0.0.1:9000/"}, "http://127.0.0.1:9000"),
    ],
)
def test_the_gateway_follows_from_user_name_and_key(values, url):
    assert parse(values).gateway.base_url == url


@pytest.mark.parametrize(
    ("values", "may_send"),
    [
        ({}, True),
        ({"AFRICAS_TALKING_BASE_URL": "http://127.0.0.1:9000"}, True),
        ({"AFRICAS_TALKING_BASE_URL": "http://localhost:9000"}, True),
        ({"AFRICAS_TALKING_BASE_URL": "https://gateway.example.com"}, False),
        ({"DATABASE_URL": SERVER, "SECRET_KEY": KEY}, False),
        ({"DATABASE_URL": SERVER, "SECRET_KEY": KEY, "AFRICAS_TALKING_API_KEY": "k"}, True),
    ],
)
def test_without_a_key_texts_go_to_this_machine_or_nowhere(values, may_send):
    refused = [name for name, _ in parse(values).sending_problems()]
    assert refused == ([] if may_send else ["AFRICAS_TALKING_API_KEY"])


def test_the_policy_for_texts_is_read_whole():
    policy = parse(
        {
            "QUIET_HOURS": "21:00-07:00",
            "SMS_PHONE_LIMIT": "off",
            "SMS_BUDGET_DAILY": "1500.5",
            "SMS_BUDGET_MONTHLY": "20000",
            "SMS_BUDGET_ACTION": "skip",
            "SMS_MAX_SEGMENTS": "2",
            "SMS_MAX_ATTEMPTS": "3",
            "SMS_RETRY_BASE_S": "0.5",
            "SMS_PAUSE_S": "60",
            "SMS_UNKNOWN": "resend",
            "SMS_UNKNOWN_WAIT_S": "30",
            "TIME_ZONE": "Africa/Kampala",
        }
    ).business.policy
    assert policy.quiet_hours == QuietHours(time(21), time(7))
    assert policy.phone_limit is None
    assert (policy.budget_daily, policy.budget_monthly) == (15_005_000, 200_000_000)
    assert policy.budget_action is BudgetAction.SKIP
    assert (policy.max_segments, policy.max_attempts) == (2, 3)
    assert policy.retry_base == timedelta(milliseconds=500)
    assert policy.pause == timedelta(minutes=1)
    assert (policy.resend_unknown, policy.unknown_wait) == (True, timedelta(seconds=30))
    assert policy.zone.key == "Africa/Kampala"


@pytest.mark.parametrize(
    ("values", "reports", "logins"),
    [({}, 30, 90), ({"SMS_REPORT_RETENTION_DAYS": "1", "LOGIN_RETENTION_DAYS": "3650"}, 1, 3650)],
)
def test_what_is_kept_for_a_time_only_is_kept_for_whole_days(values, reports, logins):
    settings = parse(values)
    assert settings.report_retention == timedelta(days=reports)
    assert settings.login_retention == timedelta(days=logins)


# --- refusals ------------------------------------------------------------------------------------

BAD = {
    "DEBUG": "maybe",
    "DATABASE_URL": "mysql://root@db/savannah",
    "DATABASE_REPLICA_URLS": f"{SERVER},sqlite:///x.db",
    "DATABASE_POOL_SIZE": "0",
    "DATABASE_PREPARED_STATEMENTS": "2",
    "ALLOWED_HOSTS": "https://orders.example.com",
    "PUBLIC_URL": "orders.example.com",
    "CORS_ALLOWED_ORIGINS": "https://a.example.com/path",
    "TRUSTED_PROXIES": "10.0.0.1/8",
    "REDIS_URL": "http://localhost:6379",
    "AFRICAS_TALKING_API_KEY": "two words",
    "AFRICAS_TALKING_SENDER_ID": "A" * 21,
    "AFRICAS_TALKING_BASE_URL": "ftp://gateway",
    "AFRICAS_TALKING_CALLBACK_TOKEN": "short",
    "SMS_TIMEOUT_S": "3",
    "DEFAULT_PHONE_REGION": "ZZ",
    "DEFAULT_CURRENCY": "EUR",
    "ALLOWED_CURRENCIES": "KES,Shilling",
    "DEFAULT_LOCALE": "fr",
    "TIME_ZONE": "Africa",
    "QUIET_HOURS": "21-7",
    "SMS_PHONE_LIMIT": "20",
    "SMS_BUDGET_DAILY": "-1",
    "SMS_BUDGET_MONTHLY": "0",
    "SMS_BUDGET_ACTION": "stop",
    "SMS_MAX_SEGMENTS": "11",
    "SMS_MAX_ATTEMPTS": "1.5",
    "SMS_RETRY_BASE_S": "0",
    "SMS_PAUSE_S": "soon",
    "SMS_UNKNOWN": "retry",
    "SMS_UNKNOWN_WAIT_S": "nan",
    "SMS_REPORT_RETENTION_DAYS": "0",
    "REGISTRATION": "ajar",
    "REGISTRATION_ROLE": "admin",
    "APP_CREATION": "closed",
    "ACCESS_TOKEN_TTL": "1h",
    "REFRESH_TOKEN_GRACE_S": "11",
    "LOGIN_LOCK": "5 in 15min",
    "LOGIN_RETENTION_DAYS": "90d",
    "RATE_LIMIT": "600 per minute",
    "RATE_LIMIT_AUTH": "0/min",
    "REQUIRE_IF_MATCH": "sometimes",
    "OIDC_TRUSTED_ISSUERS": '[{"issuer": "https://id.example.com"}]',
    "LOG_LEVEL": "LOUD",
    "LOG_FORMAT": "xml",
    "SENTRY_DSN": "sentry",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4317",
    "REQUEST_TIMEOUT_S": "soon",
    "CLIENT_TIMEOUT_S": "-1",
    "MAX_CONNECTIONS": "1",
    "WORKER_METRICS_HOST": "http://0.0.0.0",
    "WORKER_METRICS_PORT": "99999",
}


@pytest.mark.parametrize("name", BAD)
def test_a_value_that_does_not_parse_is_refused_with_its_name_and_rule(name):
    problems = problems_of(**{name: BAD[name]})
    assert list(problems) == [name]
    assert re.match("must be ", problems[name])


def test_every_bad_variable_is_told_at_once():
    assert set(problems_of(**BAD)) == set(BAD)


def test_every_variable_is_tried_with_a_bad_value_unless_it_takes_any_text(tmp_path):
    takes_any = {"SECRET_KEY", "AFRICAS_TALKING_USERNAME", "SAVANNAH_DATA_DIR"}
    assert set(BAD) | takes_any == set(known_variables())
    (tmp_path / "file").touch()
    assert set(problems_of(SAVANNAH_DATA_DIR=str(tmp_path / "file"))) == {"SAVANNAH_DATA_DIR"}


@pytest.mark.parametrize(
    "typed",
    [
        "postgresql://",
        "postgresql://host",
        "postgresql://host:port/name",
        "sqlite://",
        "sqlite:///:memory:",
        "savannah.db",
    ],
)
def test_a_database_url_without_its_parts_is_refused(typed):
    assert set(problems_of(DATABASE_URL=typed, SECRET_KEY=KEY)) == {"DATABASE_URL"}


@pytest.mark.parametrize(
    "typed",
    [
        "redis://localhost",
        "rediss://user:pass@cache.example.com:6380/2",
        "redis+cluster://a:7000,b:7000,[::1]:7000",
        f"rediss+cluster://:p,a:s@[::1]:7000,b/0?ssl_ca_certs={__file__}",
    ],
)
def test_workers_carry_jobs_only_where_the_database_is_a_server_too(typed):
    alone = parse({"REDIS_URL": typed})
    assert (alone.redis_url, alone.has_workers) == (typed, False)
    assert parse({"REDIS_URL": typed, "DATABASE_URL": SERVER, "SECRET_KEY": KEY}).has_workers
    assert typed not in repr(alone)


@pytest.mark.parametrize(
    "typed",
    [
        "redis://a:7000,b:7000",
        "redis+cluster://a:7000,,b:7000",
        "redis+cluster://[::1:7000",
        "redis+cluster://",
        "redis:///0",
        "redis://a:port",
        "redis://a/one",
        "unix:///run/redis.sock",
    ],
)
def test_several_hosts_are_a_cluster_only_where_it_is_said_and_each_has_to_be_one(typed):
    assert set(problems_of(REDIS_URL=typed)) == {"REDIS_URL"}


@pytest.mark.parametrize(
    ("typed", "rule"),
    [
        ("rediss://a?ssl_cert_reqs=none", "may have these parameters and no others: ssl_ca_certs,"),
        ("redis://a/0?socket_timeout=5", "may have these parameters and no others"),
        ("rediss://a?ssl_ca_certs=/nowhere", "must name a file that is there as ssl_ca_certs"),
        (f"redis://a?ssl_ca_certs={__file__}", "must begin with rediss"),
        ("rediss://a?ssl_ca_certs", "must be redis://"),
    ],
)
def test_what_an_address_of_redis_asks_is_understood_or_refused(typed, rule):
    """Nobody switches the verifying of certificates off by it, or ends the program."""
    problems = problems_of(REDIS_URL=typed)
    assert set(problems) == {"REDIS_URL"}
    assert problems["REDIS_URL"].startswith(rule)


def test_production_without_a_secret_key_is_refused():
    assert set(problems_of(DATABASE_URL=SERVER)) == {"SECRET_KEY"}
    assert set(problems_of(DATABASE_URL=SERVER, DEBUG="no")) == {"SECRET_KEY"}
    assert parse({"DATABASE_URL": SERVER, "DEBUG": "yes"}).secret_key is None


def test_replicas_need_a_server():
    assert set(problems_of(DATABASE_REPLICA_URLS=SERVER)) == {"DATABASE_REPLICA_URLS"}
    assert parse(PRODUCTION | {"DATABASE_REPLICA_URLS": SERVER}).database_replica_urls == (SERVER,)


def test_currencies_without_the_default_one_need_another_default():
    assert set(problems_of(ALLOWED_CURRENCIES="UGX,USD")) == {"DEFAULT_CURRENCY"}
    assert (
        parse({"ALLOWED_CURRENCIES": "UGX", "DEFAULT_CURRENCY": "ugx"}).business.currency == "UGX"
    )


def test_an_open_door_in_production_is_remarked_on():
    settings = parse(PRODUCTION | {"REGISTRATION": "open"})
    assert [remark for remark in settings.remarks() if remark.startswith("REGISTRATION is open")]
    assert parse({}).remarks() == []


def test_production_without_a_trusted_proxy_is_remarked_on():
    """It ends no TLS itself, so every call would be redirected to where it came from."""
    [remark] = parse(PRODUCTION).remarks()
    assert remark.startswith("TRUSTED_PROXIES is empty")
    assert parse(PRODUCTION | {"TRUSTED_PROXIES": "10.0.0.0/8"}).remarks() == []
    assert parse(PRODUCTION | {"DEBUG": "true"}).remarks() == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"DEBUG": "true"}, "DEBUG"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY"),
        ({"SECRET_KEY": "a" * 40}, "SECRET_KEY"),
        ({"SECRET_KEY": "development-only-development-only-development-only"}, "SECRET_KEY"),
        ({"ALLOWED_HOSTS": "*"}, "ALLOWED_HOSTS"),
        ({"ALLOWED_HOSTS": ""}, "ALLOWED_HOSTS"),
        ({"PUBLIC_URL": "http://orders.example.com"}, "PUBLIC_URL"),
        ({"REGISTRATION": "open"}, "REGISTRATION"),
        ({"APP_CREATION": "open"}, "APP_CREATION"),
        ({"RATE_LIMIT": "off"}, "RATE_LIMIT"),
        ({"RATE_LIMIT_AUTH": "off"}, "RATE_LIMIT_AUTH"),
        ({"LOGIN_LOCK": "off"}, "LOGIN_LOCK"),
        ({"CORS_ALLOWED_ORIGINS": "*"}, "CORS_ALLOWED_ORIGINS"),
        ({"CORS_ALLOWED_ORIGINS": "http://shop.example.com"}, "CORS_ALLOWED_ORIGINS"),
        ({"TRUSTED_PROXIES": "0.0.0.0/0"}, "TRUSTED_PROXIES"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8,::/0"}, "TRUSTED_PROXIES"),
        ({"SECRET_KEY": "django-insecure-kF3xw8Q2mZ7pL0sV5tR9yB4n"}, "SECRET_KEY"),
        ({"DATABASE_URL": SERVER.partition("?")[0]}, "DATABASE_URL"),
        ({"DATABASE_URL": SERVER.replace("require", "prefer")}, "DATABASE_URL"),
        ({"DATABASE_REPLICA_URLS": "postgresql://u@10.0.0.2/d"}, "DATABASE_REPLICA_URLS"),
        ({"DATABASE_URL": "postgresql://u@[2001:db8::1]/d"}, "DATABASE_URL"),
        ({"AFRICAS_TALKING_USERNAME": "sandbox"}, "AFRICAS_TALKING_USERNAME"),
        ({"AFRICAS_TALKING_BASE_URL": SANDBOX_GATEWAY}, "AFRICAS_TALKING_USERNAME"),
        ({"AFRICAS_TALKING_API_KEY": ""}, "AFRICAS_TALKING_API_KEY"),
        ({"AFRICAS_TALKING_BASE_URL": "http://gateway.example.com"}, "AFRICAS_TALKING_BASE_URL"),
    ],
)
def test_what_is_unsafe_in_production_is_named(change, name):
    assert name in [named for named, _ in unsafe(parse(PRODUCTION | change))]


@pytest.mark.parametrize(
    "change",
    [
        {"DATABASE_URL": "postgresql://u@127.0.0.1/d"},
        {"DATABASE_URL": "postgresql://u@localhost:5433/d"},
        {"DATABASE_URL": "postgresql://u@[::1]/d"},
        {"DATABASE_URL": "postgresql:///d?host=/run/postgresql"},
        {"DATABASE_URL": "postgresql://u@postgres:5432/d"},  # of a network of containers
        {"DATABASE_URL": SERVER.replace("require", f"verify-full&sslrootcert={__file__}")},
        {"DATABASE_URL": "sqlite:////srv/desk.db", "DEBUG": "false"},
        {"TRUSTED_PROXIES": "10.0.0.0/8,192.168.1.7/32,fd00::/8"},
        {"CORS_ALLOWED_ORIGINS": "https://shop.example.com"},
    ],
)
def test_what_is_safe_in_production_is_let_be(change):
    assert unsafe(parse(PRODUCTION | change)) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"REDIS_URL": "redis://cache.example.com:6379"}, "REDIS_URL"),
        ({"REDIS_URL": "redis+cluster://127.0.0.1:7000,10.0.0.4:7000"}, "REDIS_URL"),
        ({"REDIS_URL": "redis+cluster://[::1]:7000,[fd00::4]:7000"}, "REDIS_URL"),
        ({"ALLOWED_HOSTS": "api.example.com,.orders.example.com.evil.example"}, "PUBLIC_URL"),
        ({}, "AFRICAS_TALKING_CALLBACK_TOKEN"),
        ({"AFRICAS_TALKING_BASE_URL": "http://127.0.0.1:9000"}, "AFRICAS_TALKING_BASE_URL"),
        ({"DATABASE_URL": "sqlite:////srv/desk.db"}, "DATABASE_URL"),
        ({"LOG_LEVEL": "DEBUG"}, "LOG_LEVEL"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel.example.com"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"SENTRY_DSN": "http://abc@sentry.example.com/1"}, "SENTRY_DSN"),
    ],
)
def test_what_is_doubtful_in_production_is_remarked_upon(change, named):
    sure = {"AFRICAS_TALKING_CALLBACK_TOKEN": "callback-token-0123"}
    near = (
        "redis://127.0.0.1:6379",
        "redis://localhost",
        "redis+cluster://a:b@[::1]:1,localhost/0",
    )
    for redis in (*near, "rediss://c.example.com:6379"):
        assert doubts(parse(PRODUCTION | sure | {"REDIS_URL": redis})) == []
    for hosts in (".example.com", "x.test,Orders.example.com", ".orders.example.com"):
        assert doubts(parse(PRODUCTION | sure | {"ALLOWED_HOSTS": hosts})) == []
    without = {} if named == "AFRICAS_TALKING_CALLBACK_TOKEN" else sure
    [doubt] = doubts(parse(PRODUCTION | without | change))
    assert doubt.startswith(named)


def test_an_extra_that_is_missing_is_named_with_what_to_install(monkeypatch):
    asked = PRODUCTION | {
        "SENTRY_DSN": "https://abc@sentry.example.com/1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
    }
    assert parse(asked).missing_extras() == []
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    assert [(name, rule[-17:]) for name, rule in parse(asked).missing_extras()] == [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", " 'savannah[otel]'"),
        ("SENTRY_DSN", "'savannah[sentry]'"[-17:]),
    ]
    assert parse(PRODUCTION).missing_extras() == []


# --- secrets -------------------------------------------------------------------------------------


def test_no_secret_shows_when_settings_are_printed():
    values = PRODUCTION | {
        "AFRICAS_TALKING_CALLBACK_TOKEN": "callback-token-0123",
        "DATABASE_REPLICA_URLS": SERVER,
    }
    printed = repr(parse(values))
    for secret in ("hunter2", KEY, "atsk_0123456789abcdef", "callback-token-0123"):
        assert secret not in printed


def test_no_secret_shows_when_settings_are_refused():
    with pytest.raises(SettingsError) as refused:
        parse(
            {
                "DATABASE_URL": "postgresql://desk:hunter2@db.example.com:port/savannah",
                "AFRICAS_TALKING_API_KEY": "atsk key",
                "REDIS_URL": "redis://:hunter2@h h",
            }
        )
    told = str(refused.value) + repr(refused.value)
    assert "hunter2" not in told
    assert "atsk" not in told


def test_the_secret_key_is_made_once_and_kept_for_its_owner_alone(tmp_path):
    settings = parse({"SAVANNAH_DATA_DIR": str(tmp_path / "data")})
    first, second = settings.prepared(), settings.prepared()
    assert first.secret_key == second.secret_key
    assert first.callback_secret == second.callback_secret
    kept = tmp_path / "data" / "secret-key"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert kept.read_text() == first.secret_key
    assert [file.name for file in kept.parent.iterdir()] == ["secret-key"]


def _key_of(folder: str) -> str | None:
    return parse({"SAVANNAH_DATA_DIR": folder}).prepared().secret_key


def test_several_starters_at_once_agree_on_one_key(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        keys = pool.map(_key_of, [str(tmp_path / "data")] * 16, chunksize=1)
    assert len(set(keys)) == 1


def test_a_damaged_key_file_is_refused_and_left_alone(tmp_path):
    (tmp_path / "secret-key").write_text("x")
    with pytest.raises(SettingsError, match="damaged"):
        _key_of(str(tmp_path))
    assert (tmp_path / "secret-key").read_text() == "x"


def test_the_setting_whose_folder_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "data"
    for given, name in (
        ({"SAVANNAH_DATA_DIR": str(folder)}, "SAVANNAH_DATA_DIR"),
        ({"DATABASE_URL": f"sqlite:///{folder}/desk.db"}, "DATABASE_URL"),
    ):
        with pytest.raises(SettingsError) as refused:
            parse(given).prepared()
        assert [each for each, _ in refused.value.problems] == [name]


def test_derived_keys_tell_nothing_about_each_other():
    settings = parse(PRODUCTION)
    cursors, callbacks = settings.derived_key("cursors"), settings.derived_key("callbacks")
    assert len(cursors) == len(callbacks) == 32
    assert cursors != callbacks
    assert parse(PRODUCTION | {"SECRET_KEY": KEY[::-1]}).derived_key("cursors") != cursors


def test_a_callback_token_of_the_operators_own_is_used_as_it_is():
    settings = parse(PRODUCTION | {"AFRICAS_TALKING_CALLBACK_TOKEN": "our-own-callback-token"})
    assert settings.callback_secret == "our-own-callback-token"
    assert re.fullmatch("[0-9a-f]{40}", parse(PRODUCTION).callback_secret)


# --- where they come from ------------------------------------------------------------------------


def test_the_env_file_is_read_and_the_environment_wins(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text(
        "# our desk\nDEFAULT_CURRENCY=UGX\nexport LOG_LEVEL='WARNING'\nSECRET_KEY=a$b${c}#d\n"
    )
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    settings = load(tmp_path)
    assert settings.business.currency == "UGX"
    assert settings.log_level == "ERROR"
    assert settings.secret_key == "a$b${c}#d"


def test_a_name_in_the_file_that_is_no_setting_is_told_with_the_one_that_may_be_meant(tmp_path):
    assert strangers(tmp_path) == []
    (tmp_path / ".env").write_text(
        "DEBUG=true\nRATE_LIMTI=5/min\nPOSTGRES_PASSWORD=x\nOTEL_SERVICE_NAME=till\n"
        "SAVANNAH_SUPERUSER_PASSWORD=x\n"
    )
    assert strangers(tmp_path) == [("RATE_LIMTI", "RATE_LIMIT"), ("POSTGRES_PASSWORD", None)]


def test_a_line_of_the_env_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / ".env").write_text("DEBUG=true\nthis is no setting\n")
    with pytest.raises(SettingsError) as refused:
        load(tmp_path)
    assert refused.value.problems == ((".env", "line 2 must be written NAME=value"),)


def test_a_child_gets_the_settings_named_and_none_of_ours(monkeypatch):
    monkeypatch.setenv("DEBUG", "false")
    monkeypatch.setenv("SAVANNAH_SUPERUSER_PASSWORD", "x")
    monkeypatch.setenv("UNRELATED", "kept")
    environment = environment_for_child(LOG_LEVEL="ERROR")
    assert environment["UNRELATED"] == "kept"
    assert {name for name in environment if name in known_variables()} == {"LOG_LEVEL"}
    assert "SAVANNAH_SUPERUSER_PASSWORD" not in environment


def test_the_example_file_names_every_variable_and_is_valid_when_switched_on():
    example = (Path(module.__file__).parents[3] / ".env.example").read_text(encoding="utf-8")
    values = dict(re.findall(r"^# ([A-Z_]+)=(.*)$", example, re.MULTILINE))
    assert set(values) == {*known_variables(), "SAVANNAH_SUPERUSER_PASSWORD"}
    assert parse(values) == parse({})
