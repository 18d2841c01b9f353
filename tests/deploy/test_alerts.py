from __future__ import annotations

import re
from typing import Any

import pytest

from tests.deploy.files import DEPLOY, PARTS, ROOT, alerts, load

ALERTS = {rule["alert"]: rule for rule in alerts()}
CASES = [
    case
    for path in sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
    for test in load(f"prometheus/tests/{path.name}")["tests"]
    for case in test["alert_rule_test"]
]


def test_names_are_unique() -> None:
    assert len(ALERTS) == len(alerts()) > 0


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_tested_firing_and_not_firing(name: str) -> None:
    expected = [bool(case["exp_alerts"]) for case in CASES if case["alertname"] == name]
    assert True in expected, "no test in which it fires"
    assert False in expected, "no test in which it stays silent"


def test_no_test_is_of_an_alert_that_is_gone() -> None:
    assert {case["alertname"] for case in CASES} <= set(ALERTS)


@pytest.mark.parametrize("rule", ALERTS.values(), ids=ALERTS)
def test_an_alert_says_how_bad_what_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_each_alert_has_a_section_in_the_runbook_and_no_section_is_left_over() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    sections = dict(re.findall(r"^### (Volcast\w+)\n+(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(ALERTS)
    assert all("- Do:" in section or "look at and do" in section.lower() for section in sections.values())


def test_the_runbook_calls_critical_what_stops_predictions() -> None:
    critical = {name for name, rule in ALERTS.items() if rule["labels"]["severity"] == "critical"}
    assert {"VolcastFeedSilent", "VolcastServerNotReady", "VolcastTargetDown", "VolcastPredictionsStopped"} <= critical


def test_every_part_is_scraped_under_its_name_at_its_port() -> None:
    ports = {"ingestor": 9103, "worker": 9102, "server": 9101, "gateway": 8000}
    jobs = {job["job_name"]: job for job in load("prometheus/prometheus.yml")["scrape_configs"]}
    for part in PARTS:
        (discovery,) = jobs[part]["dns_sd_configs"]
        assert (discovery["names"], discovery["port"]) == ([part], ports[part])
