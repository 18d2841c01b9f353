"""What `volcast train` prints: where the rows went, and the model beside its baselines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from common.bundle import Manifest, ManifestSpan
from common.paired_difference import why_it_ships
from training.judging.evaluation.result import Difference
from training.problem.ticks import NS_PER_S
from training.reporting.narrative import standing

COLUMNS = {
    "pr_auc_lift": "lift",
    "brier": "Brier",
    "brier_skill": "skill",
    "log_loss": "log loss",
    "f1": "F1",
    "alert_rate": "alerts",
}

# Metric -> its name, and whether more (1) or less (-1) is better.
COMPARED = {
    "pr_auc": ("PR-AUC", 1),
    "roc_auc": ("ROC-AUC", 1),
    "brier": ("Brier score", -1),
    "log_loss": ("log loss", -1),
    "f1": ("F1", 1),
}


def print_report(console: Console, manifest: Manifest, latency_us: float) -> None:
    console.print(_rows_table(manifest))
    console.print(_metrics_table(manifest))
    console.print(_folds_table(manifest))
    if manifest.ablation:
        console.print(_ablation_table(manifest))
    why = why_it_ships(manifest.kind, manifest.walk_forward)
    for line in [*verdict(manifest), *weaknesses(manifest), *([why] if why else [])]:
        console.print(line)
    console.print(
        f"ONNX: differs from the trained form by at most {manifest.parity_max_abs_error:.2g} on "
        f"{manifest.rows['rows']:,} rows; one row takes {latency_us:.1f} µs"
    )


def as_json(manifest: Manifest, folder: str, latency_us: float) -> dict[str, Any]:
    """What a script would want to read."""
    return {
        "bundle": folder,
        "rows": manifest.rows,
        "label_threshold": manifest.label.threshold,
        "decision_threshold": manifest.decision_threshold,
        "kind": manifest.kind,
        "schema": manifest.schema.name,
        "inputs": manifest.inputs,
        "calibration": manifest.calibration,
        "parameters": manifest.parameters,
        "metrics": manifest.metrics,
        "walk_forward": manifest.walk_forward,
        "ablation": manifest.ablation,
        "parity_max_abs_error": manifest.parity_max_abs_error,
        "onnx_one_row_us": round(latency_us, 2),
    }


def verdict(manifest: Manifest) -> list[str]:
    """Says in plain words how the model stands against each baseline on the final part."""
    mine = manifest.metrics[manifest.kind]
    lines = []
    for name, theirs in manifest.metrics.items():
        if name == manifest.kind:
            continue
        low, high = mine.get(f"pr_auc_minus_{name}_low"), mine.get(f"pr_auc_minus_{name}_high")
        better = None if low is None or high is None else True if low > 0 else False if high < 0 else None
        difference = Difference(manifest.kind, name, "pr_auc", mine["pr_auc"] - theirs["pr_auc"], low, high, better)
        lines.append(standing(difference, manifest.kind, name))
    return lines


def weaknesses(manifest: Manifest) -> list[str]:
    """Says where the model is no better than another, or than climatology."""
    lines = []
    for part, scores in (("the final part", manifest.metrics), ("the walk-forward folds", manifest.walk_forward)):
        for key, (name, sign) in COMPARED.items():
            mine = scores[manifest.kind][key]
            better = [other for other, theirs in scores.items() if sign * theirs[key] > sign * mine]
            if better:
                lines.append(f"On {part} the better {name} is that of {', '.join(better)}")
    skill = manifest.metrics[manifest.kind]["brier_skill"]
    if skill <= 0:
        lines.append(f"On the final part its probabilities are WORSE than climatology's constant: skill {skill:.4f}")
    return lines


def span_text(span: ManifestSpan) -> str:
    start, end = (datetime.fromtimestamp(one // NS_PER_S, UTC) for one in (span.start_ns, span.end_ns))
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"


def _rows_table(manifest: Manifest) -> Table:
    table = _table("Rows", "count")
    for what, count in manifest.rows.items():
        table.add_row(what, f"{count:,}")
    return table


def _metrics_table(manifest: Manifest) -> Table:
    base_rate = manifest.metrics[manifest.kind]["base_rate"]
    title = f"Final part: {span_text(manifest.evaluation)}; {base_rate:.1%} of rows are spikes"
    table = _table(title, "PR-AUC", "95 %", *COLUMNS.values())
    for name, values in manifest.metrics.items():
        known = "pr_auc_low" in values
        interval = f"{values['pr_auc_low']:.2f}–{values['pr_auc_high']:.2f}" if known else "not known"
        table.add_row(name, f"{values['pr_auc']:.3f}", interval, *(f"{values[column]:.3f}" for column in COLUMNS))
    return table


def _folds_table(manifest: Manifest) -> Table:
    first = manifest.walk_forward[manifest.kind]
    title = (
        f"Walk-forward: means over {first['folds']:.0f} folds ({first['folds_with_spikes']:.0f} hold spikes); "
        f"{first['base_rate']:.1%} of rows are spikes"
    )
    table = _table(title, "PR-AUC", *COLUMNS.values())
    for name, values in manifest.walk_forward.items():
        table.add_row(name, f"{values['pr_auc']:.3f}", *(f"{values[column]:.3f}" for column in COLUMNS))
    return table


def _ablation_table(manifest: Manifest) -> Table:
    table = _table("Ablation: validation folds without each group of features", "log loss", "PR-AUC", "kept")
    for row in manifest.ablation:
        name = "all features" if row.group == "none" else f"without {row.group} ({len(row.columns)})"
        table.add_row(name, f"{row.log_loss:.4f}", f"{row.pr_auc:.4f}", "yes" if row.kept else "dropped")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
