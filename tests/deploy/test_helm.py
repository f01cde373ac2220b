"""The Helm chart, rendered by Helm's own engine; every manifest against Kubernetes' schemas."""

from __future__ import annotations

import asyncio
import copy
import re
from pathlib import Path
from typing import Any, Final

import fresh_debian
import helm_python as helm
import httpx
import kubernetes_validate
import pytest
import service
import yaml

import servers
from savannah.adapters.sql import migrate
from savannah.entrypoints.cli import parser
from savannah.entrypoints.production import unsafe
from savannah.entrypoints.settings import Settings, known_variables, parse

CHART: Final = fresh_debian.ROOT / "deploy/helm/savannah-microservice"
# From the oldest that the chart admits to the newest there are schemas of.
KUBERNETES: Final = ("1.25", "1.28", "1.34", "1.37")
SECRET: Final = "0123456789-0123456789-0123456789-abcdefgh"
DATABASE: Final = "postgresql://savannah:secret@db.example.com/savannah"
# Of the kinds that the Prometheus Operator reads.
OPERATOR: Final = "monitoring.coreos.com/v1"
MONITORING: Final = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
}
# The command of the service that this one replaces, as it was documented.
OLD_COMMAND: Final = (
    f"image.tag=1.0.0,secrets.secretKey={SECRET},secrets.databaseUrl={DATABASE},"
    "ingress.hosts[0].host=orders.example.com"
)

Values = dict[str, Any]
Manifest = dict[str, Any]


def full() -> Values:
    found: Values = yaml.safe_load((Path(__file__).parent / "values/full.yaml").read_text())
    return found


def with_redis() -> Values:
    values = minimal()
    values["secrets"] |= {"redisUrl": "redis://redis:6379/0", "africasTalkingApiKey": "atsk_1"}
    return values


def own_secret() -> Values:
    values: Values = helm.parse_set_string("ingress.hosts[0].host=orders.example.com")
    values["secrets"] = {"existingSecret": "orders-settings", "existingSecretHasRedis": True}
    return values


def bare() -> Values:
    """Everything that can be switched off."""
    off = {"enabled": False}
    return minimal() | {
        "web": {"replicas": 1, "autoscaling": off, "podDisruptionBudget": off},
        "migration": off,
        "networkPolicy": off,
        "ingress": {"enabled": False, "hosts": [{"host": "orders.example.com"}], "tls": []},
        "serviceAccount": {"create": False},
        "topologySpreadConstraints": [],
    }


def minimal() -> Values:
    found: Values = helm.parse_set_string(OLD_COMMAND)
    return found


CASES: Final = (minimal, with_redis, own_secret, bare, full)
case = pytest.mark.parametrize("values", CASES, ids=lambda made: str(made.__name__))


def render(values: Values, *, at: Path = CHART) -> list[Manifest]:
    with helm.Chart.load(str(at)) as chart:
        files = chart.render(values, name="savannah", namespace="shop")
    return [
        document
        for name, text in files.items()
        if not name.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
        if document
    ]


def named(manifests: list[Manifest], kind: str, ending: str = "") -> Manifest:
    """The one of that kind whose name ends so."""
    found = [
        each
        for each in manifests
        if each["kind"] == kind and each["metadata"]["name"].endswith(ending)
    ]
    assert len(found) == 1, [each["metadata"]["name"] for each in found]
    return found[0]


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The pod specs, by the name of what makes them."""
    return {
        each["metadata"]["name"]: each["spec"]
        if each["kind"] == "Pod"
        else each["spec"]["template"]["spec"]
        for each in manifests
        if each["kind"] in ("Pod", "Deployment", "Job")
    }


def variables(manifests: list[Manifest], container: Manifest) -> dict[str, str]:
    """What the container finds in its environment."""
    given: dict[str, str] = {}
    for source in container["envFrom"]:
        for key, kind, field in (
            ("configMapRef", "ConfigMap", "data"),
            ("secretRef", "Secret", "stringData"),
        ):
            if key in source:
                name = source[key]["name"]
                found = [
                    each[field]
                    for each in manifests
                    if each["kind"] == kind and each["metadata"]["name"] == name
                ]
                given |= found[0]
    return given | {each["name"]: each["value"] for each in container.get("env", [])}


@case
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_is_valid_for_kubernetes(values: Any, version: str) -> None:
    manifests = render(values())
    assert len(manifests) >= 4
    for manifest in manifests:
        if manifest["apiVersion"] != OPERATOR:  # not one of Kubernetes' own
            kubernetes_validate.validate(copy.deepcopy(manifest), version, strict=True)


def test_the_oldest_kubernetes_that_is_admitted_is_among_them() -> None:
    admitted = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert admitted == f">={KUBERNETES[0]}.0-0"


@case
def test_the_linter_finds_no_error(values: Any) -> None:
    found = helm.lint(str(CHART), values())
    assert found["errors"] == []


# Where the Secret is the user's own, nobody here knows what is in it.
@pytest.mark.parametrize("values", [minimal, with_redis, bare, full])
def test_every_container_gets_settings_the_program_takes(values: Any) -> None:
    manifests = render(values())
    for name, pod in pods(manifests).items():
        for container in pod["containers"]:
            if "args" not in container:
                continue
            given = variables(manifests, container)
            assert set(given) <= set(known_variables()), name
            settings = parse(given)
            options = parser().parse_args(container["args"])
            if options.command.__name__ == "_worker":
                assert settings.has_workers
                assert settings.sending_problems() == []
            if options.command.__name__ == "_serve" and not settings.has_workers:
                assert options.no_worker or settings.sending_problems() == []


def test_the_full_values_are_safe_settings() -> None:
    manifests = render(full())
    container = pods(manifests)["savannah-microservice-web"]["containers"][0]
    given = variables(manifests, container)
    settings = parse(given)
    assert unsafe(settings) == []
    assert settings.hosts == ("orders.example.com", "api.example.com")
    assert settings.public_url == "https://orders.example.com"
    assert given["SMS_BUDGET_DAILY"] == "1000000"  # not 1e+06


def test_the_command_of_the_old_service_still_installs() -> None:
    manifests = render(minimal())
    web = pods(manifests)["savannah-microservice-web"]["containers"][0]
    assert web["image"] == "savannah:1.0.0"
    assert "--no-worker" in web["args"]  # it names no key for the gateway
    given = variables(manifests, web)
    assert given["SECRET_KEY"] == SECRET
    assert given["DATABASE_URL"] == DATABASE
    rules = named(manifests, "Ingress")["spec"]["rules"]
    assert [rule["host"] for rule in rules] == ["orders.example.com"]
    assert rules[0]["http"]["paths"][0]["path"] == "/"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql+asyncpg", "postgresql+psycopg2"])
def test_whatever_address_the_program_takes_the_chart_takes(scheme: str) -> None:
    values = minimal()
    values["secrets"]["databaseUrl"] = DATABASE.replace("postgresql", scheme)
    manifests = render(values)
    web = pods(manifests)["savannah-microservice-web"]["containers"][0]
    assert parse(variables(manifests, web)).database_url == DATABASE


def test_a_wildcard_of_the_ingress_is_one_that_the_program_takes() -> None:
    values = minimal()
    values["ingress"]["hosts"] = [{"host": "*.example.com"}]
    with pytest.raises(helm.HelmError, match=r"config\.PUBLIC_URL"):
        render(values)

    def taken(more: Values) -> Settings:
        manifests = render(values | more)
        web = pods(manifests)["savannah-microservice-web"]["containers"][0]
        return parse(variables(manifests, web))

    named = taken({"config": {"PUBLIC_URL": "https://orders.example.com"}})
    assert (named.hosts, named.public_url) == ((".example.com",), "https://orders.example.com")
    values["ingress"]["hosts"] += [{"host": "desk.example.org"}]
    assert taken({}).hosts == (".example.com", "desk.example.org")
    assert taken({}).public_url == "https://desk.example.org"


def test_the_migration_brings_along_all_that_it_needs() -> None:
    """Before an install nothing of the release exists, neither settings nor account."""
    manifests = render(full())
    job = named(manifests, "Job", "-migrate")
    hook = job["metadata"]["annotations"]
    assert hook["helm.sh/hook"] == "pre-install,pre-upgrade"
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["migrate"]
    for source in container["envFrom"]:
        (reference,) = source.values()
        earlier = next(
            each
            for each in manifests
            if each["metadata"]["name"] == reference["name"]
            and each["kind"] in ("Secret", "ConfigMap")
            and "annotations" in each["metadata"]
        )["metadata"]["annotations"]
        assert earlier["helm.sh/hook"] == hook["helm.sh/hook"]
        assert int(earlier["helm.sh/hook-weight"]) < int(hook["helm.sh/hook-weight"])
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "default"


def test_a_migration_goes_past_a_pooler() -> None:
    values = minimal()
    values["secrets"] |= {
        "databaseUrl": DATABASE.replace("db.", "pooler.").replace(".com", ".com:6432"),
        "migrationDatabaseUrl": DATABASE,
    }
    manifests = render(values)
    web, migration = (
        variables(manifests, pods(manifests)[f"savannah-microservice-{part}"]["containers"][0])
        for part in ("web", "migrate")
    )
    assert migration == web | {"DATABASE_URL": DATABASE}
    assert web["DATABASE_URL"] == values["secrets"]["databaseUrl"]
    assert egress_ports(values, "migrate") == [53, 53, 5432]


def test_a_migration_past_a_pooler_may_have_a_secret_of_your_own() -> None:
    values = own_secret()
    values["secrets"]["existingMigrationSecret"] = "orders-migration"
    found = {
        name: source["secretRef"]["name"]
        for name, pod in pods(render(values)).items()
        for container in pod["containers"]
        for source in container.get("envFrom", [])
        if "secretRef" in source
    }
    assert found == {
        "savannah-microservice-migrate": "orders-migration",
        "savannah-microservice-web": "orders-settings",
        "savannah-microservice-worker": "orders-settings",
    }


def test_a_tag_of_digits_alone_stays_as_it_is() -> None:
    values = minimal()
    values["image"]["tag"] = 20261123  # as a file of values has it
    manifests = render(values)
    for pod in pods(manifests).values():
        assert [each["image"] for each in pod["containers"]] == ["savannah:20261123"]
    version = named(manifests, "Service")["metadata"]["labels"]["app.kubernetes.io/version"]
    assert version == "20261123"


def test_texts_wait_for_no_workers_that_there_are_not() -> None:
    """Whoever has a Redis in a Secret of their own, and did not say so."""
    values = own_secret()
    values["secrets"]["existingSecretHasRedis"] = False
    containers = {name: pod["containers"][0] for name, pod in pods(render(values)).items()}
    assert "savannah-microservice-worker" not in containers
    web = containers["savannah-microservice-web"]
    own = {
        "SECRET_KEY": SECRET,
        "DATABASE_URL": DATABASE,
        "REDIS_URL": "redis://redis:6379/0",
        "AFRICAS_TALKING_API_KEY": "atsk_1",
    }
    given = own | {each["name"]: each["value"] for each in web["env"]}
    assert parse(own).has_workers
    assert not parse(given).has_workers
    assert "--no-worker" not in web["args"]
    values["secrets"]["existingSecretHasRedis"] = True
    assert "env" not in pods(render(values))["savannah-microservice-web"]["containers"][0]


def test_certificates_of_authorities_are_files_of_every_pod_that_connects() -> None:
    for name, pod in pods(render(full())).items():
        if name.endswith("-test"):
            continue
        (volume,) = (each for each in pod["volumes"] if "configMap" in each)
        assert volume["configMap"] == {"name": "orders-authorities"}
        (mount,) = (
            each for each in pod["containers"][0]["volumeMounts"] if each["name"] == volume["name"]
        )
        assert (mount["mountPath"], mount["readOnly"]) == ("/etc/savannah/authorities", True)


def test_a_digest_holds_on_to_one_image_in_every_pod() -> None:
    digest = f"sha256:{'a' * 64}"
    values = with_redis()
    values["image"]["digest"] = digest
    for pod in pods(render(values)).values():
        assert [each["image"] for each in pod["containers"]] == [f"savannah:1.0.0@{digest}"]


def test_a_secret_of_your_own_is_used_and_none_is_made() -> None:
    manifests = render(own_secret())
    assert [each for each in manifests if each["kind"] == "Secret"] == []
    for name, pod in pods(manifests).items():
        for container in pod["containers"]:
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    assert source["secretRef"]["name"] == "orders-settings", name
    assert "savannah-microservice-worker" in pods(manifests)


@case
def test_every_pod_keeps_to_the_restricted_standard(values: Any) -> None:
    for name, pod in pods(render(values())).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
        assert pod["automountServiceAccountToken"] is False, name
        assert not pod.get("hostNetwork", False), name
        assert all(not volume.get("hostPath") for volume in pod.get("volumes", [])), name
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"], name


def labels_of_pods(manifests: list[Manifest]) -> dict[str, dict[str, str]]:
    """The labels of the pods, by the name of what makes them."""
    return {
        each["metadata"]["name"]: each["metadata"]["labels"]
        if each["kind"] == "Pod"
        else each["spec"]["template"]["metadata"]["labels"]
        for each in manifests
        if each["kind"] in ("Pod", "Deployment", "Job")
    }


@case
def test_what_selects_pods_selects_the_ones_it_means(values: Any) -> None:
    manifests = render(values())
    labels = labels_of_pods(manifests)

    def selected(by: dict[str, str]) -> set[str]:
        return {name for name, has in labels.items() if by.items() <= has.items()}

    for each in manifests:
        spec, name = each.get("spec", {}), each["metadata"]["name"]
        match each["kind"]:
            case "Deployment" | "PodDisruptionBudget":
                assert selected(spec["selector"]["matchLabels"]) == {name}
            case "Service":
                part = each["metadata"]["labels"]["app.kubernetes.io/component"]
                assert selected(spec["selector"]) == {f"savannah-microservice-{part}"}
            case "HorizontalPodAutoscaler":
                assert spec["scaleTargetRef"]["name"] in labels
            case "NetworkPolicy":
                assert selected(spec["podSelector"]["matchLabels"]) == {name}
    policies = [each["metadata"]["name"] for each in manifests if each["kind"] == "NetworkPolicy"]
    assert sorted(policies) in ([], sorted(set(labels) - {"savannah-microservice-test"}))


@case
def test_every_port_that_is_named_is_a_port_of_the_pods_behind_it(values: Any) -> None:
    manifests = render(values())
    ports = {
        name: {port["name"] for container in pod["containers"] for port in container["ports"]}
        for name, pod in pods(manifests).items()
        if name.endswith(("-web", "-worker"))
    }
    for each in manifests:
        part = each["metadata"].get("labels", {}).get("app.kubernetes.io/component")
        name = f"savannah-microservice-{part}"
        match each["kind"]:
            case "Service":
                assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports[name]
            case "NetworkPolicy":
                for rule in each["spec"]["ingress"]:
                    assert {port["port"] for port in rule["ports"]} <= ports[name]
            case "Ingress":
                backend = each["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
                found = named(manifests, "Service", backend["name"])
                assert backend["port"]["name"] in {p["name"] for p in found["spec"]["ports"]}


def test_prometheus_finds_each_part_under_the_job_of_the_alert_rules() -> None:
    manifests = render(full())
    services = [each for each in manifests if each["kind"] == "Service"]
    monitors = [each for each in manifests if each["kind"] == "ServiceMonitor"]
    jobs = {}
    for monitor in monitors:
        assert monitor["apiVersion"] == OPERATOR
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (found,) = (each for each in services if wanted <= each["metadata"]["labels"].items())
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in found["spec"]["ports"]}
        assert (endpoint["path"], endpoint["interval"]) == ("/metrics", "30s")
        job = found["metadata"]["labels"][monitor["spec"]["jobLabel"]]
        jobs[job] = found["metadata"]["name"]
    assert jobs == {
        "savannah": "savannah-microservice",
        "savannah-worker": "savannah-microservice-worker",
    }
    worker = named(manifests, "Service", "-worker")["spec"]
    assert (worker["clusterIP"], worker["publishNotReadyAddresses"]) == ("None", True)


def test_the_alert_rules_are_those_that_are_tested_in_a_packed_chart_too(tmp_path: Path) -> None:
    """In the folder they are a link to the file beside it."""
    tested = (fresh_debian.ROOT / "deploy/prometheus/rules.yml").read_text()
    packed = Path(helm.package(str(CHART), destination=str(tmp_path)))
    found = named(render(full(), at=packed), "PrometheusRule")
    assert found["apiVersion"] == OPERATOR
    assert found["spec"] == yaml.safe_load(tested)


def policy(manifests: list[Manifest], part: str) -> Manifest:
    found: Manifest = named(manifests, "NetworkPolicy", f"-{part}")["spec"]
    assert found["policyTypes"] == ["Ingress", "Egress"]
    return found


def test_callers_reach_the_web_alone_and_prometheus_the_workers_alone() -> None:
    manifests = render(with_redis())
    http = [{"port": "http", "protocol": "TCP"}]
    metrics = [{"port": "metrics", "protocol": "TCP"}]
    assert policy(manifests, "web")["ingress"] == [{"ports": http}]
    assert policy(manifests, "worker")["ingress"] == [{"ports": metrics, "from": [MONITORING]}]
    assert policy(manifests, "migrate")["ingress"] == []


def test_narrowing_the_callers_shuts_out_neither_prometheus_nor_helm_test() -> None:
    values = full()
    manifests = render(values)
    (rule,) = policy(manifests, "web")["ingress"]
    *callers, prometheus, test_pod = rule["from"]
    assert callers == values["networkPolicy"]["ingressFrom"]
    assert prometheus == MONITORING
    labels = labels_of_pods(manifests)
    wanted = test_pod["podSelector"]["matchLabels"].items()
    assert [name for name, has in labels.items() if wanted <= has.items()] == [
        "savannah-microservice-test"
    ]


def test_workers_whose_figures_nobody_may_read_let_nobody_in() -> None:
    """Where Kubernetes takes an empty `from` for everybody."""
    manifests = render(with_redis() | {"networkPolicy": {"metricsFrom": []}})
    assert policy(manifests, "worker")["ingress"] == []


@pytest.mark.parametrize(
    ("collector", "port"),
    [
        ("http://otel:4318", 4318),
        ("https://otel.example.com", 443),
        ("http://otel", 80),
        ("https://otel.example.com:9999/spans", 9999),
        ("http://[fd00::4318]", 80),
    ],
)
def test_spans_may_leave_to_the_port_of_their_collector(collector: str, port: int) -> None:
    usual = [53, 53, 5432, 6379, 443]
    told = with_redis() | {"config": {"OTEL_EXPORTER_OTLP_ENDPOINT": collector}}
    for part in ("web", "worker"):
        assert egress_ports(with_redis(), part) == usual
        assert egress_ports(told, part) == (usual if port in usual else [*usual, port])
    assert egress_ports(told, "migrate") == [53, 53, 5432]


def egress_ports(values: Values, part: str) -> list[int]:
    (rule,) = policy(render(values), part)["egress"]
    return [each["port"] for each in rule["ports"]]


def test_pods_may_go_to_the_ports_that_their_settings_name() -> None:
    values = with_redis()
    values["secrets"] |= {
        "databaseUrl": "postgresql+psycopg2://u:1,2:3@pooler:6432/savannah?sslmode=require",
        "databaseReplicaUrls": "postgresql://u:p@one:5433/savannah, postgresql://u:p@two/savannah",
        "redisUrl": "rediss+cluster://:p,4:5@one:7000,[fd00::7001]:7002/0",
        "sentryDsn": "https://key@sentry.internal:9000/1",
    }
    values["config"] = {"AFRICAS_TALKING_BASE_URL": "http://simulator:9100"}
    named = {6432, 5433, 7000, 7002, 9000, 9100}
    for part in ("web", "worker"):
        assert set(egress_ports(values, part)) == {53, 5432, 6379, 443} | named
    assert egress_ports(values, "migrate") == [53, 53, 6432]
    own = values["secrets"] | {"existingSecret": "orders-settings", "existingSecretHasRedis": True}
    assert egress_ports(values | {"secrets": own}, "migrate") == [53, 53, 5432, 6379, 443]


def test_probes_of_the_web_ask_what_the_service_answers(tmp_path: Path) -> None:
    web = pods(render(full()))["savannah-microservice-web"]["containers"][0]
    assert web["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": "http"}
    assert web["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": "http"}
    assert web["startupProbe"]["httpGet"]["path"] == "/health/live"
    assert web["ports"] == [{"name": "http", "containerPort": 8000}]
    assert "--port=8000" in web["args"]
    with service.serving(tmp_path) as url:
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            assert httpx.get(
                url + web[probe]["httpGet"]["path"], trust_env=False, timeout=120
            ).is_success


def worker_of_a_cluster(database: str, redis: str) -> tuple[Manifest, dict[str, str]]:
    """The container of the worker as the chart describes it for these servers; its environment."""
    values = with_redis()
    values["secrets"] |= {"databaseUrl": database, "redisUrl": redis}
    values["worker"] = {"metricsPort": servers.free_port()}
    manifests = render(values)
    container = pods(manifests)["savannah-microservice-worker"]["containers"][0]
    return container, variables(manifests, container)


def answer(container: Manifest, probe: str) -> int | None:
    """What a kubelet gets for that probe; None where nothing answers in time."""
    asked = container[probe]["httpGet"]
    (port,) = (each for each in container["ports"] if each["name"] == asked["port"])
    url = f"http://127.0.0.1:{port['containerPort']}{asked['path']}"
    patience_s = container[probe].get("timeoutSeconds", 1)
    try:
        return httpx.get(url, timeout=patience_s, trust_env=False).status_code
    except httpx.TransportError:
        return None


def test_an_outage_makes_a_real_worker_unready_and_restarts_nothing(tmp_path: Path) -> None:
    with servers.own_postgres() as postgres, servers.own_redis() as redis:
        database = postgres.fresh_database()
        asyncio.run(migrate(database))
        container, settings = worker_of_a_cluster(database, redis.url)
        with service.running(tmp_path, *container["args"], **settings) as (process, _):
            probes = ("startupProbe", "livenessProbe", "readinessProbe")
            # A kubelet forgives a busy machine one late answer, too.
            service.until(lambda: {answer(container, probe) for probe in probes} == {200})
            for fall, rise in (
                (redis.stop, redis.start),
                (redis.freeze, redis.thaw),
                (postgres.stop, postgres.start),
                (postgres.freeze, postgres.thaw),
            ):
                fall()
                service.until(lambda: answer(container, "readinessProbe") == 503)
                service.until(lambda: answer(container, "livenessProbe") == 200)
                service.until(lambda: answer(container, "startupProbe") == 200)
                rise()
                service.until(lambda: answer(container, "readinessProbe") == 200)
            assert process.poll() is None


def test_a_real_worker_before_its_migration_is_never_ready(tmp_path: Path) -> None:
    """So a release whose migration was left out replaces no worker."""
    with servers.own_postgres() as postgres, servers.own_redis() as redis:
        container, settings = worker_of_a_cluster(postgres.fresh_database(), redis.url)
        process = service.start(tmp_path, *container["args"], **settings)
        while process.poll() is None:
            assert answer(container, "readinessProbe") is None
    assert process.returncode == 1
    assert "run `savannah migrate`" in (tmp_path / "worker.log").read_text()
    rollout = named(render(with_redis()), "Deployment", "-worker")["spec"]["strategy"]
    assert rollout["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_full_values_make_one_of_everything() -> None:
    kinds = {each["kind"] for each in render(full())}
    assert kinds >= {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "Job", "NetworkPolicy",
        "PodDisruptionBudget", "PrometheusRule", "Secret", "Service", "ServiceAccount",
        "ServiceMonitor",
    }  # fmt: skip


def test_new_settings_are_new_pods() -> None:
    def checksum(values: Values) -> str:
        web = named(render(values), "Deployment", "-web")
        found: str = web["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
        return found

    changed = minimal() | {"config": {"SMS_PAUSE_S": 60}}
    assert checksum(minimal()) == checksum(minimal()) != checksum(changed)


@pytest.mark.parametrize(
    ("path", "value", "named_in_the_error"),
    [
        ("secrets.secretKey", "", "secretKey"),
        ("secrets.databaseUrl", "mysql://db/savannah", "databaseUrl"),
        ("secrets.databaseUrl", "", "databaseUrl"),
        ("secrets.redisUrl", "http://redis", "redisUrl"),
        ("secrets.secretkey", "typo", "secretkey"),
        ("image.tag", "not a tag", "image"),
        ("image.digest", "sha256:short", "digest"),
        ("secrets.migrationDatabaseUrl", "mysql://db/savannah", "migrationDatabaseUrl"),
        ("ingress.hosts", [], "hosts"),
        ("ingress.hosts", [{"host": "https://orders.example.com"}], "hosts"),
        ("web.replicas", -1, "replicas"),
        ("web.autoscaling.targetCPUUtilizationPercentage", 101, "targetCPU"),
        ("web.autoscaling", {"minReplicas": 9, "maxReplicas": 8}, "minReplicas"),
        ("terminationGracePeriodSeconds", 5, "terminationGracePeriodSeconds"),
        ("worker.concurrency", 0, "concurrency"),
        ("worker.metricsPort", 80, "metricsPort"),
        ("worker.metricsport", 9101, "metricsport"),
        ("networkPolicy.metricsFrom", [{"namespace": "monitoring"}], "metricsFrom"),
        ("networkPolicy.metricsFrom", "monitoring", "metricsFrom"),
        ("networkPolicy.ingressFrom", [{}], "ingressFrom"),
        ("networkPolicy.ingressFrom", [{"ipBlock": {"cidr": "everybody"}}], "ingressFrom"),
        ("prometheusRule.enable", True, "enable"),
        ("service.type", "ExternalName", "type"),
        ("config", {"DATABASE_URL": "postgresql://in/the-wrong-place"}, "DATABASE_URL"),
        ("config", {"WORKER_METRICS_PORT": "9200"}, "WORKER_METRICS_PORT"),
        ("config", {"OTEL_EXPORTER_OTLP_ENDPOINT": "otel:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("config", {"sms_pause_s": "60"}, "sms_pause_s"),
        ("trustedProxies", ["everybody"], "trustedProxies"),
        ("nonsense", True, "nonsense"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_by_its_name(
    path: str, value: object, named_in_the_error: str
) -> None:
    values = minimal()
    *parents, last = path.split(".")
    where = values
    for parent in parents:
        where = where.setdefault(parent, {})
    where[last] = value
    with pytest.raises(helm.HelmError, match=re.escape(named_in_the_error)):
        render(values)


def test_what_needs_a_secret_says_so_where_there_is_none() -> None:
    with pytest.raises(helm.HelmError, match="secretKey"):
        render({})
