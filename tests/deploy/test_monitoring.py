"""Alert rules and dashboard: what promtool says of them, and that their figures are really exposed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import fresh_debian
import httpx
import pytest
import yaml
from service import serving

FOLDER: Final = fresh_debian.ROOT / "deploy/prometheus"
DASHBOARD: Final = fresh_debian.ROOT / "deploy/grafana/savannah.json"
NAME: Final = re.compile(r"\b((?:savannah|process)_[a-z_]+)\b")


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def expressions() -> list[str]:
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    rules = [rule["expr"] for group in groups for rule in group["rules"]]
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return rules + panels


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a real service shows, in Prometheus' text format."""
    with serving(tmp_path_factory.mktemp("service")) as address, httpx.Client() as client:
        client.get(f"{address}/api/auth/health/")
        yield client.get(f"{address}/metrics").text


def test_promtool_takes_the_rules_and_they_fire_when_they_should() -> None:
    promtool = fresh_debian.tool("promtool", package="prometheus")
    fresh_debian.run(promtool, "check", "config", FOLDER / "prometheus.yml")
    fresh_debian.run(promtool, "check", "rules", FOLDER / "rules.yml")
    fresh_debian.run(promtool, "test", "rules", FOLDER / "rules.test.yml")


def test_every_alert_has_been_seen_to_fire_and_to_be_silent() -> None:
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    text = (FOLDER / "rules.test.yml").read_text()
    assert set(re.findall(r'alertname="(\w+)"', text)) == alerts
    assert set(re.findall(r"alertname: (\w+)", text)) == alerts


def test_every_figure_that_is_asked_for_is_exposed(exposed: str) -> None:
    known = set(re.findall(r"^# TYPE (\S+) ", exposed, re.MULTILINE))
    known |= {f"{name}_bucket" for name in known}
    asked = {name for each in expressions() for name in NAME.findall(each)}
    assert len(asked) > 8
    assert asked - known == set()


def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": target["expr"].replace("$job", "savannah")}
        for number, target in enumerate(
            target for panel in dashboard()["panels"] for target in panel["targets"]
        )
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    fresh_debian.run(fresh_debian.tool("promtool", package="prometheus"), "check", "rules", file)


def test_panels_of_the_dashboard_are_told_apart_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
