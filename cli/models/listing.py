"""Rows of `volcast models list`: versions below the models folder, and training runs of this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.bundle import Manifest, read_bundle
from common.config import TrackingConfig
from common.errors import BundleError
from common.model_store import ModelStore
from common.paired_difference import why_it_ships

SCORES = ("crps", "pr_auc")  # means over the walk-forward folds


def versions(store: ModelStore) -> list[dict[str, Any]]:
    """One row for each version, in order; `error` is the reason if its bundle cannot be read."""
    labels = store.effective_labels()
    rows = []
    for version, folder in store.versions().items():
        row: dict[str, Any] = {
            "name": store.name,
            "version": version,
            "label": labels.of(version) if labels else "",
        }
        try:
            manifest, _ = read_bundle(folder)
        except BundleError as error:
            rows.append(row | {"error": str(error)})
            continue
        row |= {"kind": manifest.kind, "schema": manifest.schema.name}
        if not manifest.is_added:
            row |= {"trained_until": _day(manifest.training.end_ns), "label_threshold": _spike_size(manifest)}
            row |= {"evaluation_ns": (manifest.evaluation.start_ns, manifest.evaluation.end_ns)}
        row |= {"why": why_it_ships(manifest.kind, manifest.walk_forward)}
        scores = manifest.walk_forward.get(manifest.kind, {})
        rows.append(row | {name: _shown(scores.get(name)) for name in SCORES} | {"error": ""})
    return rows


def _spike_size(manifest: Manifest) -> float:
    """Realized volatility (log) at which a spike begins: the default size of a forecast model, else the label's."""
    return manifest.label.threshold if manifest.forecast is None else manifest.forecast.spike_bps / 1e4


def shown(version: dict[str, Any]) -> dict[str, str]:
    threshold = version.get("label_threshold")
    return version if threshold is None else version | {"spike size": f"{1e4 * threshold:.2f} bps"}


def scores_differ_in_base(rows: list[dict[str, Any]]) -> bool:
    """Whether some versions were scored at another spike size, or on other rows, than the rest."""
    bases = {(row["label_threshold"], row["evaluation_ns"]) for row in rows if "label_threshold" in row}
    return len(bases) > 1


def runs(runs_dir: Path, tracking: TrackingConfig, name: str | None) -> tuple[list[dict[str, str]], list[str]]:
    """Rows of the runs that are kept here, and a line for each that is damaged."""
    if not runs_dir.is_dir():
        return [], []
    # Light, but a part of training: a server's container has neither it nor runs.
    from training.shipping.tracking.mlflow_server import FINISHED, tracking_uri
    from training.shipping.tracking.record import read_upload, unreadable
    from training.shipping.tracking.record import runs as kept_runs

    uri = tracking_uri(tracking)
    rows = []
    for folder, run in kept_runs(runs_dir):
        if name is not None and run.name != name:
            continue
        upload = read_upload(folder, uri)
        rows.append(
            {
                "run": run.id,
                "code": run.code,
                **{name: _shown(run.metrics.get(f"walk_forward/{run.kind}/{name}")) for name in SCORES},
                "version": upload.version,
                "mlflow": f"version {upload.version}" if upload.has(FINISHED) else "waits",
            }
        )
    return rows, unreadable(runs_dir)


def _shown(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def _day(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).date().isoformat()
