"""The table that `volcast train` prints: each kind of forecast next to HAR, on the folds and on the final part."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from common.bundle import Manifest, ManifestSpan
from training.forecasting.kinds import HAR, KINDS
from training.problem.target import BPS, NS_PER_S

Scores = Mapping[str, Mapping[str, float]]  # kind -> score -> value

UNKNOWN = "–"
COLUMNS = ("CRPS", "CRPS - HAR's", "80 %", "95 %", "log loss", "PR-AUC")
LABELS = {kind.name: kind.label for kind in KINDS}


def print_report(console: Console, manifest: Manifest, latency_us: float) -> None:
    """manifest: of a forecast. latency_us: of a row in ONNX Runtime."""
    folds = f"{manifest.parameters.get('folds', 0):.0f} walk-forward folds: {span_text(manifest.training)}"
    console.print(_table(folds, manifest.kind, manifest.walk_forward))
    console.print(_table(f"Final part: {span_text(manifest.evaluation)}", manifest.kind, manifest.metrics))
    for line in lines(manifest, latency_us):
        console.print(line)


def lines(manifest: Manifest, latency_us: float) -> list[str]:
    """The facts below the tables, a sentence each."""
    return [
        lead_text(manifest),
        f"Default spike size {spike_bps(manifest):.3g} bps: {base_rate(manifest):.1%} of {manifest.training.rows:,} "
        f"training rows reach it (base rate). Alert level: {manifest.decision_threshold:g}",
        f"ONNX: differs from the trained form by at most {manifest.parity_max_abs_error:.2g}; a row takes "
        f"{latency_us:.1f} µs",
    ]


def lead_text(manifest: Manifest) -> str:
    """Whether the kind is shown to beat HAR on the folds."""
    label = LABELS.get(manifest.kind, manifest.kind)
    if manifest.kind == HAR:
        return f"{label} ships: it is the baseline"
    high = manifest.walk_forward.get(manifest.kind, {}).get("crps_minus_har_high")
    shown = "not shown to beat HAR" if high is None or high >= 0 else "shown to beat HAR"
    return f"{label} is {shown} on the folds: CRPS {difference_text(manifest.walk_forward.get(manifest.kind, {}))}"


def as_json(manifest: Manifest, folder: str, latency_us: float) -> dict[str, Any]:
    """The same facts for a script. folder: of the bundle."""
    return {
        "bundle": folder,
        "rows": manifest.rows,
        "spike_bps": spike_bps(manifest),
        "base_rate": base_rate(manifest),
        "alert_level": manifest.decision_threshold,
        "kind": manifest.kind,
        "schema": manifest.schema.name,
        "inputs": manifest.inputs,
        "parameters": manifest.parameters,
        "metrics": manifest.metrics,
        "walk_forward": manifest.walk_forward,
        "parity_max_abs_error": manifest.parity_max_abs_error,
        "onnx_one_row_us": round(latency_us, 2),
    }


def spike_bps(manifest: Manifest) -> float:
    """The default spike size."""
    return manifest.forecast.spike_bps if manifest.forecast else manifest.label.threshold * BPS


def base_rate(manifest: Manifest) -> float:
    """The share of training rows at or above the default spike size."""
    return manifest.training.positives / manifest.training.rows if manifest.training.rows else 0.0


def difference_text(scores: Mapping[str, float]) -> str:
    """CRPS minus that of HAR with its 95 % interval, if there is an interval; negative: better."""
    if "crps_minus_har" not in scores:
        return UNKNOWN
    point = f"{scores['crps_minus_har']:+.4f}"
    low, high = scores.get("crps_minus_har_low"), scores.get("crps_minus_har_high")
    return f"{point} (no interval)" if low is None or high is None else f"{point} [{low:+.4f}, {high:+.4f}]"


def span_text(span: ManifestSpan) -> str:
    start, end = (datetime.fromtimestamp(time_ns // NS_PER_S, UTC) for time_ns in (span.start_ns, span.end_ns))
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"


def number(scores: Mapping[str, float], name: str, form: str = ".4f") -> str:
    return format(scores[name], form) if name in scores else UNKNOWN


def _table(title: str, shipped: str, scores: Scores) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for kind, values in scores.items():
        table.add_row(
            LABELS.get(kind, kind),
            number(values, "crps"),
            difference_text(values),
            *(number(values, name, ".1%") for name in ("coverage_80", "coverage_95")),
            *(number(values, name) for name in ("log_loss", "pr_auc")),
            style="bold" if kind == shipped else None,
        )
    return table
