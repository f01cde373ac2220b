"""Alert rules and dashboard: what promtool and a Prometheus say of them, over the real service."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import fresh_debian
import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from service import Installation, installation, until

import servers
from savannah.domain.notification import SmsStatus

FOLDER: Final = fresh_debian.ROOT / "deploy/prometheus"
DASHBOARD: Final = fresh_debian.ROOT / "deploy/grafana/savannah.json"
CHART: Final = fresh_debian.ROOT / "deploy/helm/savannah-microservice"
HOW_TO: Final = fresh_debian.ROOT / "docs/how-to/monitor.md"
REFERENCE: Final = fresh_debian.ROOT / "docs/reference/metrics.md"
NAME: Final = re.compile(r"\b((?:savannah|process)_[a-z_]+)\b")
# What Prometheus says of a target. `namespace` is there under the Prometheus Operator alone.
OF_A_TARGET: Final = {"namespace", "job", "instance"}
NO_JUDGE_OF_HEALTH: Final = {"SavannahSlow"}  # on a busy machine, one slow login of a few requests


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def targets() -> list[tuple[str, dict[str, Any]]]:
    """Each question of the dashboard, with the title of its panel."""
    return [(panel["title"], target) for panel in panels() for target in panel["targets"]]


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [target["expr"] for _, target in targets()]


def labels_asked_for(expression: str) -> Iterator[tuple[str, str]]:
    """Pairs of a metric and a label that an expression matches or groups by."""
    for metric, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", matchers):
            yield metric, label
    for found in re.finditer(r"\bby \(([^)]*)\) \(", expression):
        depth, end = 1, found.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(expression[end], 0)
            end += 1
        for metric in NAME.findall(expression[found.end() : end]):
            for label in found[1].split(", "):
                yield metric, label


@pytest.fixture(scope="module")
def redis() -> Iterator[servers.OwnRedis]:
    with servers.own_redis() as server:
        yield server


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: servers.PostgresServer,
    redis: servers.OwnRedis,
) -> Iterator[Installation]:
    """One that has traded, so that everything with labels has been counted."""
    folder = tmp_path_factory.mktemp("desk")
    with installation(folder, postgres_server.fresh_database(), redis.url) as started:
        started.trade(phone="+254700100001")
        yield started


@pytest.fixture(scope="module")
def exposed(desk: Installation) -> Mapping[str, set[str]]:
    """Names of the samples that web and worker show, with their labels."""
    labels: dict[str, set[str]] = {}
    for address in (desk.web, desk.worker):
        text = httpx.get(f"{address}/metrics", trust_env=False, timeout=120).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def families(names: Sequence[str] | set[str] | Mapping[str, object]) -> set[str]:
    """The metrics that these samples are of, as the reference page calls them."""
    return {re.sub(r"_seconds_(bucket|count|sum|created)$", "_seconds", name) for name in names} - {
        name for name in names if name.endswith("_created")
    }


# --- promtool ------------------------------------------------------------------------------------


def test_promtool_takes_the_rules_and_they_fire_when_they_should() -> None:
    promtool = fresh_debian.tool("promtool", package="prometheus")
    fresh_debian.run(promtool, "check", "config", FOLDER / "prometheus.yml")
    fresh_debian.run(promtool, "check", "rules", FOLDER / "rules.yml")
    fresh_debian.run(promtool, "test", "rules", FOLDER / "rules.test.yml")


def test_every_alert_has_been_seen_to_fire_and_to_be_silent() -> None:
    names = {rule["alert"] for rule in alerts()}
    cases = [
        case
        for test in yaml.safe_load((FOLDER / "rules.test.yml").read_text())["tests"]
        for case in test.get("alert_rule_test", ())
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    records = [
        {"record": f"panel:{number}", "expr": target["expr"]}
        for number, (_, target) in enumerate(targets())
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    fresh_debian.run(fresh_debian.tool("promtool", package="prometheus"), "check", "rules", file)


# --- what is asked for, what is exposed, what is written -----------------------------------------


def test_every_figure_that_is_asked_for_is_exposed(exposed: Mapping[str, set[str]]) -> None:
    asked = {name for each in expressions() for name in NAME.findall(each)}
    assert asked - set(exposed) == set()


def test_every_figure_that_is_exposed_is_asked_for(exposed: Mapping[str, set[str]]) -> None:
    asked = families({name for each in expressions() for name in NAME.findall(each)})
    ours = {name for name in families(exposed) if name.startswith("savannah_")}
    assert len(ours) == 20
    assert ours - asked == set()


def test_the_reference_page_names_what_is_exposed(exposed: Mapping[str, set[str]]) -> None:
    page = REFERENCE.read_text()
    table = page[: page.index("## Log fields")]
    assert set(re.findall(r"`((?:savannah|process)_\w+)`", table)) == families(exposed)


def test_the_reference_page_names_the_labels(exposed: Mapping[str, set[str]]) -> None:
    """In the second column: `counter: method, route, status`; `the same` is as in the row above."""
    rows = re.findall(
        r"^\| `(savannah_\w+)` \| \w+(?:: ([^|]+))? \|", REFERENCE.read_text(), re.MULTILINE
    )
    assert len(rows) == 20
    written: dict[str, set[str]] = {}
    above = ""
    for name, labels in rows:
        above = above if labels == "the same" else labels
        written[name] = set(above.split(", ")) - {""}
    shown: dict[str, set[str]] = {name: set() for name in written}
    for sample, labels in exposed.items():
        for name in families({sample}) & set(shown):
            shown[name] |= labels - {"le"}
    assert shown == written


def test_every_label_that_is_asked_for_is_on_its_figure(exposed: Mapping[str, set[str]]) -> None:
    asked = {pair for each in expressions() for pair in labels_asked_for(each)}
    assert ("savannah_gateway_paused", "kind") in asked
    assert ("savannah_sms_total", "status") in asked
    assert {
        (metric, label)
        for metric, label in asked
        if label not in OF_A_TARGET | exposed.get(metric, OF_A_TARGET)
    } == set()


def test_a_state_of_texts_that_is_asked_for_is_one_there_is() -> None:
    asked = {
        status
        for each in expressions()
        for status in re.findall(r'savannah_sms_total\{[^}]*status="(\w+)"', each)
    }
    assert asked == {"dead"} <= {status.value for status in SmsStatus}


def test_the_how_to_names_every_alert_and_every_panel() -> None:
    page = HOW_TO.read_text()
    assert re.findall(r"^\| `(Savannah\w+)` \|", page, re.MULTILINE) == [
        rule["alert"] for rule in alerts()
    ]
    table = page[page.index("| row | panels |") :]
    written = dict(re.findall(r"^\| ([A-Z]\w+) \| (.+) \|$", table, re.MULTILINE))
    shown: dict[str, list[str]] = {}
    row = ""
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        else:
            shown.setdefault(row, []).append(panel["title"])
    assert {row: text.split("; ") for row, text in written.items()} == shown


def test_the_how_to_shows_the_scrape_configuration_that_is_shipped() -> None:
    [block] = re.findall(
        r"^```yaml\n(scrape_configs:.*?)^```", HOW_TO.read_text(), re.MULTILINE | re.DOTALL
    )
    shipped = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert yaml.safe_load(block)["scrape_configs"] == shipped["scrape_configs"]


def test_the_how_to_sets_values_that_the_chart_has() -> None:
    [block] = re.findall(
        r"^```yaml\n(serviceMonitor:.*?)^```", HOW_TO.read_text(), re.MULTILINE | re.DOTALL
    )
    chart = yaml.safe_load((CHART / "values.yaml").read_text())
    told = yaml.safe_load(block)
    assert {"serviceMonitor", "prometheusRule", "networkPolicy"} == told.keys()
    for part, values in told.items():
        assert values.keys() <= chart[part].keys()
    assert told["networkPolicy"]["metricsFrom"] == chart["networkPolicy"]["metricsFrom"]


def test_every_alert_says_what_it_is_what_to_do_and_how_bad() -> None:
    for rule in alerts():
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]


# --- the dashboard -------------------------------------------------------------------------------


def test_panels_of_the_dashboard_are_told_apart_and_do_not_overlap() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in everything}) == len(everything)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in everything
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_panel_says_what_it_shows_in_which_unit_and_heeds_the_variables() -> None:
    chosen = {f'{variable["name"]}=~"${variable["name"]}"' for variable in queried()}
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            matchers = re.findall(r"\w+\{([^}]*)\}", target["expr"])
            assert all(chosen <= set(each.split(", ")) for each in matchers), panel["title"]
            assert len(matchers) == len(
                re.findall(r"\b(?:up|savannah_\w+|process_\w+)\b", target["expr"])
            )


def queried() -> list[dict[str, Any]]:
    """The variables that Prometheus is asked for, in the order in which they are."""
    return [each for each in dashboard()["templating"]["list"] if each["type"] == "query"]


# --- a real Prometheus ---------------------------------------------------------------------------


class OwnPrometheus(servers.OwnServer):
    """A Prometheus with the shipped configuration, which looks every second at these addresses."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        super().__init__("prometheus")
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=120, trust_env=False
        )
        self._binary = fresh_debian.tool("prometheus", package="prometheus")
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
        shipped = config["scrape_configs"]
        assert [each["static_configs"] for each in shipped] == [
            [{"targets": [address]}] for address in addresses
        ]
        for each in shipped:
            [[place]] = [config["targets"] for config in each["static_configs"]]
            each["static_configs"] = [{"targets": [addresses[place].removeprefix("http://")]}]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.start()

    def _command(self) -> Sequence[str | Path]:
        return [
            self._binary,
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def _ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._client.close()
        super().close()

    def ask(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def samples(self, expression: str) -> list[dict[str, str]]:
        """The labels of what it answers, as far as that is a number."""
        found = self.ask("query", query=expression)["result"]
        return [each["metric"] for each in found if each["value"][1] != "NaN"]

    def alerts(self) -> dict[str, dict[str, Any]]:
        groups = self.ask("rules", type="alert")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def ringing(self) -> dict[str, list[str]]:
        """Alerts that fire or are about to, and the jobs that they ring for."""
        return {
            name: sorted(each["labels"].get("job", "") for each in rule["alerts"])
            for name, rule in self.alerts().items()
            if rule["alerts"]
        }


@pytest.fixture(scope="module")
def prometheus(desk: Installation) -> Iterator[OwnPrometheus]:
    """One that has seen the desk before and after some more trade."""
    addresses = {"localhost:8000": desk.web, "localhost:9101": desk.worker}
    with closing(OwnPrometheus(addresses)) as started:
        until(lambda: len(started.samples("savannah_orders_created_total")) == 2)
        desk.trade(phone="+254700100002")
        yield started


def chosen(prometheus: OwnPrometheus) -> dict[str, str]:
    """What "All" of each variable stands for, found as Grafana finds it."""
    values: dict[str, str] = {}
    for variable in queried():
        [(series, label)] = re.findall(r"^label_values\((.+), (\w+)\)$", variable["query"])
        found = prometheus.ask(f"label/{label}/values", **{"match[]": filled(series, values)})
        values[variable["name"]] = variable.get("allValue") or "|".join(map(re.escape, found))
    return values


def filled(expression: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        expression = expression.replace(f"${name}", value.replace("\\", "\\\\"))
    return expression


def test_every_panel_has_data_of_a_web_process_and_a_worker(prometheus: OwnPrometheus) -> None:
    values = chosen(prometheus)
    assert values["job"] == re.escape("savannah") + "|" + re.escape("savannah-worker")

    def empty() -> set[str]:
        return {
            title
            for title, target in targets()
            if not prometheus.samples(filled(target["expr"], values))
        }

    until(lambda: not empty(), instead=empty)


def test_every_legend_is_of_labels_that_the_data_has(prometheus: OwnPrometheus) -> None:
    values = chosen(prometheus)
    for title, target in targets():
        shown = prometheus.samples(filled(target["expr"], values))
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert named <= {label for sample in shown for label in sample}, title


def test_no_alert_rings_for_a_healthy_desk(prometheus: OwnPrometheus) -> None:
    assert set(prometheus.alerts()) == {rule["alert"] for rule in alerts()}
    until(lambda: prometheus.ringing().keys() <= NO_JUDGE_OF_HEALTH, instead=prometheus.ringing)
    assert {rule["health"] for rule in prometheus.alerts().values()} == {"ok"}
    assert prometheus.samples('count_over_time(ALERTS{alertstate="firing"}[10m])') == []


def test_an_alert_rings_while_a_part_is_in_trouble_and_is_silent_afterwards(
    desk: Installation, prometheus: OwnPrometheus, redis: servers.OwnRedis
) -> None:
    desk.worker_process.send_signal(signal.SIGSTOP)
    try:
        rings(prometheus, "SavannahDown", ["savannah-worker"])
    finally:
        desk.worker_process.send_signal(signal.SIGCONT)
    redis.kill()
    try:
        rings(prometheus, "SavannahRedisDown", ["savannah", "savannah-worker"])
    finally:
        redis.start()
    desk.gateway_answers("insufficient_balance")
    try:
        order = desk.order(phone="+254700100003")
        rings(prometheus, "SavannahGatewayPaused", [""])  # one for all, of the kind `account`
    finally:
        desk.gateway_answers("normal")
    until(lambda: desk.sms(order) == "delivered")
    # A worker that was stopped was late, and SavannahLoopBlocked may rightly say so.
    troubles = {"SavannahDown", "SavannahRedisDown", "SavannahGatewayPaused"}
    until(lambda: not troubles & prometheus.ringing().keys(), instead=prometheus.ringing)


def rings(prometheus: OwnPrometheus, name: str, jobs: list[str]) -> None:
    """Wait until an alert rings for just these jobs."""
    until(lambda: prometheus.ringing().get(name) == jobs, instead=prometheus.ringing)
