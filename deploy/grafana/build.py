"""Builds dashboards/volcast.json, the dashboard that Grafana loads: `python deploy/grafana/build.py`.

One line a panel here against sixty in Grafana's JSON; a test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "dashboards" / "volcast.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RANGE = "[$__rate_interval]"  # Grafana fits it to the scrape interval and the zoom

Json = dict[str, Any]
Query = tuple[str, str]  # PromQL, legend
Steps = tuple[tuple[str, float | None], ...]  # colour, from which value on

PLAIN: Steps = (("blue", None),)
ANY_IS_GOOD: Steps = (("red", None), ("green", 1))
ANY_IS_BAD: Steps = (("green", None), ("red", 1))


def rate(metric: str, *by: str) -> str:
    return f"sum{_by(by)}(rate({metric}{RANGE}))"


def increase(metric: str, *by: str) -> str:
    return f"sum{_by(by)}(increase({metric}{RANGE}))"


def quantiles(metric: str, prefix: str = "", *by: str) -> list[Query]:
    buckets = rate(f"{metric}_bucket", "le", *by)
    return [(f"histogram_quantile({q}, {buckets})", f"{prefix}p{q * 100:.0f}") for q in (0.5, 0.99)]


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""


def stat(title: str, about: str, query: str, unit: str, steps: Steps, **defaults: object) -> Json:
    """One number with a background colour, 3 columns wide."""
    thresholds = {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in steps]}
    return _panel("stat", title, about, [(query, "")], (3, 4)) | {
        "fieldConfig": {
            "defaults": {"unit": unit, "color": {"mode": "thresholds"}, "thresholds": thresholds} | defaults,
            "overrides": [],
        },
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "background",
            "graphMode": "none",
            "textMode": "value",
            "justifyMode": "center",
        },
    }


def graph(
    title: str,
    about: str,
    queries: list[Query],
    unit: str,
    width: int = 8,
    *,
    stacked: bool = False,
    **defaults: object,
) -> Json:
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 60 if stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    return _panel("timeseries", title, about, queries, (width, 8)) | {
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, "color": {"mode": "palette-classic"}, "custom": custom} | defaults,
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _panel(kind: str, title: str, about: str, queries: list[Query], size: tuple[int, int]) -> Json:
    targets = [
        {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
        | ({"instant": True} if kind == "stat" else {})
        for n, (expr, legend) in enumerate(queries)
    ]
    size_of = {"w": size[0], "h": size[1]}
    return {
        "type": kind, "title": title, "description": about, "datasource": SOURCE, "gridPos": size_of, "targets": targets
    }  # fmt: skip


NOW = [
    stat("Feed", "Whether the ingestor is connected to the exchange.",
         "min(volcast_ingest_connected)", "none", ANY_IS_GOOD,
         mappings=[{"type": "value", "options": {"0": {"text": "away"}, "1": {"text": "connected"}}}]),
    stat("Last message", "Age of the exchange's last message; heartbeats come each second.",
         "time() - max(volcast_ingest_last_message_timestamp_seconds)", "s",
         (("green", None), ("orange", 10), ("red", 30)), decimals=1),
    stat("Ticks", "Ticks a second from the exchange, all products.",
         rate("volcast_ingest_ticks_total"), "cps", PLAIN, decimals=1),
    stat("Predictions", "Predictions a second, all workers.",
         rate("volcast_worker_predictions_total"), "cps", PLAIN, decimals=1),
    stat("Latency p99", "From a tick's receipt by the ingestor to its prediction.",
         quantiles("volcast_worker_latency_seconds")[1][0], "s", (("green", None), ("orange", 0.05), ("red", 0.1))),
    stat("Consumer lag", "Records that the workers have yet to read.",
         "sum(volcast_worker_consumer_lag)", "short", (("green", None), ("orange", 500), ("red", 1000))),
    stat("Servers ready", "Inference servers with a model loaded and warm.",
         "sum(volcast_server_ready)", "none", ANY_IS_GOOD),
    stat("Alerts", "Alerts that are firing; docs/operations.md says what to do.",
         'count(ALERTS{alertname=~"Volcast.*", alertstate="firing"}) or vector(0)', "none", ANY_IS_BAD),
]  # fmt: skip

LATE = '{__name__=~"volcast_(ingest|worker)_late_total"}'
DEAD = '{__name__=~"volcast_(ingest|worker)_dead_total"}'
FEED = [
    graph("Ticks a second, by product", "Well-formed ticks that went to ticks.raw.",
          [(rate("volcast_ingest_ticks_total", "product"), "{{product}}")], "cps"),
    graph("Gaps, late and dead", "What was not an ordinary tick; late and dead ones are kept on topics of their own.",
          [(increase("volcast_ingest_gaps_total", "reason"), "gap: {{reason}}"),
           (increase(LATE, "job", "reason"), "late: {{reason}} ({{job}})"),
           (increase(DEAD, "job", "reason"), "dead: {{reason}} ({{job}})")], "short"),
    graph("Silence and reconnects", "Each reconnect resets all histories: no predictions for the next 60 s.",
          [("time() - volcast_ingest_last_message_timestamp_seconds", "s since the last message, {{instance}}"),
           (increase("volcast_ingest_reconnects_total", "instance"), "reconnects, {{instance}}")], "short"),
]  # fmt: skip

STREAM = [
    graph("Rows a second", "Features = predictions + not warm + missing, once nothing waits.",
          [(rate("volcast_worker_features_total"), "features"),
           (rate("volcast_worker_predictions_total"), "predictions"),
           (rate("volcast_worker_not_warm_total"), "not warm"),
           (rate("volcast_worker_missing_predictions_total", "reason"), "missing: {{reason}}")], "cps"),
    graph("Not warm", "Rows with less than 60 s of unbroken history: not predicted.",
          [(f"{rate('volcast_worker_not_warm_total')} / ({rate('volcast_worker_features_total')} > 0)",
            "share of rows")], "percentunit", 4, max=1),
    graph("Waiting for the server", "Warm rows held while the inference server is away.",
          [("sum(volcast_worker_backlog_rows)", "rows")], "short", 4),
    graph("Consumer lag, by partition", "Records between the end of the partition and what the workers have read.",
          [("sum by (topic, partition) (volcast_worker_consumer_lag)", "{{topic}}[{{partition}}]")], "short"),
    graph("From tick to prediction", "From a tick's receipt by the ingestor to its prediction.",
          quantiles("volcast_worker_latency_seconds"), "s", 12),
    graph("Inference", "Time in the model alone, a batch at a time.",
          quantiles("volcast_server_compute_seconds"), "s", 12),
]  # fmt: skip

SERVING = [
    graph("gRPC calls a second, by method and code", "Calls of the inference server.",
          [(rate("volcast_server_requests_total", "method", "code"), "{{method}} {{code}}")], "reqps", stacked=True),
    graph("gRPC call duration", "As the server sees it, waiting included.",
          quantiles("volcast_server_request_duration_seconds", "{{method}} ", "method"), "s"),
    graph("Rows a second, by model", "Rows predicted, by model and version.",
          [(rate("volcast_server_rows_total", "model", "version"), "{{model}} {{version}}")], "cps", stacked=True),
    graph("REST calls a second, by route and code", "Calls of the gateway.",
          [(rate("volcast_gateway_requests_total", "route", "code"), "{{route}} {{code}}")], "reqps", stacked=True),
    graph("REST call duration", "As the gateway sees it, the inference call included.",
          quantiles("volcast_gateway_request_duration_seconds", "{{route}} ", "route"), "s"),
    graph("Models served", "How many servers hold each model ready; bundles that were refused.",
          [("sum by (model, version) (volcast_server_models)", "{{model}} {{version}}"),
           ("sum by (model, version) (volcast_server_model_failing)", "refused: {{model}} {{version}}")], "short"),
]  # fmt: skip


ANSWERED = 'role="answered", forecaster="model"'
WHO = "{{model}}/{{version}} {{role}} {{forecaster}}"
MODEL = [
    graph("CRPS over a day", "On log volatility, smaller is better: answering versions, shadows, baselines.",
          [('max by (model, version, role, forecaster) (volcast_monitor_crps{window="24h"})', WHO)], "none"),
    graph("Coverage over a day", "Share of outcomes within the 80 and 95 % intervals of live forecasts.",
          [(f'max by (model, version, interval) (volcast_monitor_coverage{{{ANSWERED}, window="24h"}})',
            "{{interval}} % {{model}}/{{version}}")], "percentunit", max=1),
    graph("PR-AUC over a day", "At the served spike size: answering versions, shadows, baselines.",
          [('max by (model, version, role, forecaster) (volcast_monitor_pr_auc{window="24h"})', WHO)], "none", max=1),
    graph("Skill and calibration over a day", "Brier skill against the base rate, above 0 is better; ECE.",
          [(f'max by (model, version) (volcast_monitor_brier_skill{{{ANSWERED}, window="24h"}})',
            "skill {{model}}/{{version}}"),
           (f'max by (model, version) (volcast_monitor_ece{{{ANSWERED}, window="24h"}})',
            "ECE {{model}}/{{version}}")], "none", min=-1, max=1),
    graph("Hit rate and precision over an hour", "Share of spikes that were alerted, of alerts that a spike followed.",
          [(f'max by (model, version) (volcast_monitor_hit_rate{{{ANSWERED}, window="1h"}})',
            "hit rate {{model}}/{{version}}"),
           (f'max by (model, version) (volcast_monitor_precision{{{ANSWERED}, window="1h"}})',
            "precision {{model}}/{{version}}")], "percentunit", max=1),
    graph("Drift of inputs over a day", "PSI against training of the ten farthest; below 0.1 none, above 0.25 large.",
          [('topk(10, max by (feature) (volcast_worker_feature_psi{window="24h", input="yes"}))', "{{feature}}")],
          "none"),
    graph("Drift of probabilities", "PSI against training; an hour is shown, a day is judged.",
          [("max by (model, version, window) (volcast_worker_probability_psi)", "{{model}}/{{version}} {{window}}")],
          "none"),
    graph("Rate of alerts", "Share of probabilities at or above the alert level, and in training.",
          [("max by (model, version, window) (volcast_worker_positive_rate)", "{{model}}/{{version}} {{window}}"),
           ("max by (model, version) (volcast_worker_reference_positive_rate)", "{{model}}/{{version}} in training")],
          "percentunit", max=1),
    graph("Missing features over an hour", "Share of rows in which a feature is no number; the ten worst.",
          [('topk(10, max by (feature) (volcast_worker_feature_missing_rate{window="1h"}))', "{{feature}}")],
          "percentunit", max=1),
    graph("Rows that the figures rest on", "Below 21,600 (drift) and 4,320 (outcomes) rows of a day nothing alarms.",
          [('max by (model, version) (volcast_worker_drift_rows{window="24h"})', "drift {{model}}/{{version}}"),
           ('max by (model, version, role) (volcast_monitor_rows{forecaster="model", window="24h"})',
            "outcomes {{model}}/{{version}} {{role}}")], "short"),
    graph("Predictions and their outcomes", "Joined with outcomes; not joined, by reason.",
          [(rate("volcast_monitor_joined_total"), "joined"),
           (rate("volcast_monitor_unjoined_total", "reason"), "{{reason}}")], "cps"),
]  # fmt: skip


def dashboard() -> Json:
    rows = {"Now": NOW, "Feed": FEED, "Stream": STREAM, "Serving": SERVING, "Model": MODEL}
    return {
        "uid": "volcast",
        "title": "Volcast",
        "description": "From the exchange's ticks to predictions, on one page.",
        "tags": ["volcast"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "timezone": "utc",
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "graphTooltip": 1,  # one crosshair through all panels
        "templating": {"list": [_source_variable()]},
        "annotations": {"list": [_alerts()]},
        "panels": _laid_out(rows),
    }


def _source_variable() -> Json:
    current = {"text": "Prometheus", "value": "prometheus"}
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "current": current, "hide": 2}


def _alerts() -> Json:
    firing = 'ALERTS{alertname=~"Volcast.*", alertstate="firing"}'
    return {
        "name": "Alerts",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": firing,
        "titleFormat": "{{alertname}}",
        "step": "15s",
    }


def _laid_out(rows: dict[str, list[Json]]) -> list[Json]:
    """Panels from left to right on a grid of 24 columns, a heading above each row."""
    placed: list[Json] = []
    y = 0
    for title, panels in rows.items():
        placed.append({"type": "row", "title": title, "collapsed": False, "panels": []})
        placed[-1]["gridPos"] = {"x": 0, "y": y, "w": 24, "h": 1}
        x, y, height = 0, y + 1, 0
        for panel in panels:
            size = panel["gridPos"]
            if x + size["w"] > 24:
                x, y = 0, y + height
            placed.append(panel | {"gridPos": {"x": x, "y": y} | size})
            x, height = x + size["w"], size["h"]
        y += height
    return [{"id": number} | panel for number, panel in enumerate(placed, 1)]


def text() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    OUT.write_text(text())
    print(f"{OUT.name}: {len(dashboard()['panels'])} panels")
