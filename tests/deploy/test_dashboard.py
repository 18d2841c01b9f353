from __future__ import annotations

import json
import re
from typing import Any

import yaml

from server.core.models import Repository
from server.runtime.metrics import ServerMetrics
from server.runtime.state import ServerState
from tests.deploy.files import DEPLOY, ROOT, alerts, load, load_script

DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "volcast.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
NAME = r"\bvolcast_(?:ingest|worker|server|gateway|monitor)_\w+"


def family(sample: str) -> str:
    return re.sub(r"_(total|bucket|sum|count)$", "", sample)


def declared() -> set[str]:
    """The metric families that the programs declare, by name."""
    sources = [
        path.read_text() for folder in ("server", "pipeline", "training") for path in (ROOT / folder).rglob("*.py")
    ]
    named = {family(name) for text in sources for name in re.findall(rf'"({NAME})"', text)}
    registered = ServerMetrics(Repository("volatility"), ServerState("test", "grpcio")).collect()
    return named | {metric.name for metric in registered}


def used(text: str) -> set[str]:
    """The families that queries name; {__name__=~"volcast_(a|b)_c"} counts as both."""
    several = re.findall(r"volcast_\((\w+)\|(\w+)\)(_\w+)", text)
    spelled_out = {f"volcast_{part}{rest}" for *parts, rest in several for part in parts}
    return {family(name) for name in spelled_out | set(re.findall(NAME, text))}


def queries() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_the_dashboard_is_what_its_source_builds() -> None:
    built = load_script("grafana/build.py").text()
    assert (DEPLOY / "grafana" / "dashboards" / "volcast.json").read_text() == built


def test_panels_ask_for_metrics_that_exist() -> None:
    assert used("\n".join(queries())) <= declared()


def test_alerts_ask_for_metrics_that_exist() -> None:
    rules = (DEPLOY / "prometheus" / "rules" / "volcast.yml").read_text()
    assert used(rules) <= declared()


def test_what_an_alert_looks_at_is_on_the_dashboard() -> None:
    shown = used("\n".join(queries()))
    asked = used("\n".join(rule["expr"] for rule in alerts()))
    assert asked <= shown


def test_panels_lie_side_by_side_without_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(0 <= x < 24 for x, _ in cells)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    for panel in PANELS:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_grafana_is_given_the_data_source_and_the_folder_that_compose_mounts() -> None:
    (source,) = load("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    (provider,) = load("grafana/provisioning/dashboards/volcast.yml")["providers"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    assert DASHBOARD["templating"]["list"][0]["current"]["value"] == source["uid"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in compose["grafana"]["volumes"]
    scrape = load("prometheus/prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
