"""Writes the card of the shipped model from its manifest, so that no figure in it can be stale or rounded up.

python -m training.model_card models/volatility/1 > docs/model_card_v1.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from common.bundle import Manifest, read_bundle
from training.report import span_text, verdict, weaknesses

NEWLINE = "\n"  # an expression of an f-string holds no backslash before Python 3.12

METRICS = {
    "pr_auc": "PR-AUC",
    "pr_auc_lift": "lift over base rate",
    "roc_auc": "ROC-AUC",
    "brier": "Brier",
    "brier_skill": "Brier skill, climatology",
    "brier_skill_own_rate": "Brier skill, own base rate",
    "log_loss": "log loss",
    "mean_probability": "mean probability",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "alert_rate": "share of alerts",
}
FOLD_METRICS = ("pr_auc", "pr_auc_lift", "brier", "brier_skill", "log_loss", "f1")
REASONS = {
    "unused_jumped_back": "ticks older than the one before",
    "unused_repeated": "repeated ticks",
    "not_warm": "less than 60 s of unbroken ticks before",
    "label_crosses_gap": "a gap in the 60 s after",
    "label_past_end": "the recording ends in the 60 s after",
    "thinned": "another row stands for the second",
}


def render(manifest: Manifest) -> str:
    """The card as Markdown."""
    source = f"models/{manifest.name}/{manifest.version}/manifest.json"
    sections = [
        f"# Model card: {manifest.name} {manifest.version}",
        f"Generated from `{source}` by `training/model_card.py`; a test compares.",
        _use(manifest),
        _model(manifest),
        _data(manifest),
        _final(manifest),
        _walk_forward(manifest),
        _limits(manifest),
    ]
    return "\n\n".join(sections) + "\n"


def _use(manifest: Manifest) -> str:
    label = manifest.label
    return f"""## Intended use

Says how likely the realized volatility of BTC-USD over the next {label.horizon_s:.0f} s reaches
τ = {label.threshold:.6g} ({label.threshold * 1e4:.2f} basis points). It ships to show the whole path at work
and as a yardstick for the models that follow. No trade is placed by this software, and nothing here says
that one should be."""


def _model(manifest: Manifest) -> str:
    strength, schema = manifest.parameters["l2_strength"], manifest.schema
    return f"""## Model

Logistic regression (L2, C = {strength:g}, no class weights) on logs of eight scale-free features of schema
`{schema.name}` (hash `{schema.hash}`); no price, and no direction of a return. The transforms are inside the
ONNX graph, in float64; it differs from the trained form by at most {manifest.parity_max_abs_error:.2g} on
{manifest.rows["rows"]:,} rows. A spike is announced at a probability of {manifest.decision_threshold:.6g}, the
threshold with the best F1 on the walk-forward folds."""


def _data(manifest: Manifest) -> str:
    rows, train, test = manifest.rows, manifest.training, manifest.evaluation
    dropped = "\n".join(f"| {meaning} | {rows[reason]:,} |" for reason, meaning in REASONS.items())
    return f"""## Data

{rows["ticks"]:,} Coinbase ticker updates in {len(manifest.data)} recordings with {rows["gaps"]} gaps between them
(SHA-256 `{manifest.data_sha256[:12]}…`; the data is not shipped). One row a second at most.

| rows | count |
|---|---|
| ticks read | {rows["ticks"]:,} |
{dropped}
| **usable** | **{rows["rows"]:,}** |
| purged and embargoed before the final part | {rows["purged"] + rows["embargoed"]:,} |
| **training**, {span_text(train)} | **{train.rows:,}** |
| **final part**, {span_text(test)} | **{test.rows:,}** |

τ is the {manifest.label.quantile:.2f} quantile of the last {manifest.parameters["threshold_rows"]:,.0f} training rows
([why](decisions/0004-spike-threshold.md)). Against it {train.positives:,} training rows
({train.positives / train.rows:.1%}) are spikes, and {test.positives:,} of the final part
({test.positives / test.rows:.1%})."""


def _final(manifest: Manifest) -> str:
    table = _table(manifest.metrics, METRICS)
    spans = (f"{one['pr_auc_low']:.3f} to {one['pr_auc_high']:.3f}" for one in manifest.metrics.values())
    table.insert(3, f"| … 95 % interval | {' | '.join(spans)} |")
    given = manifest.parameters
    findings = [*verdict(manifest), *weaknesses(manifest)]
    return f"""## On the final part

The last {given["final_share"]:.0%} of the rows, behind an embargo of {given["embargo_s"]:.0f} s. Base rate
{manifest.metrics[manifest.kind]["base_rate"]:.4f}. Intervals by bootstrap of {given["bootstrap_block_s"]:.0f}-s
blocks, {given["bootstrap_resamples"]:,.0f} draws.

{NEWLINE.join(table)}

{NEWLINE.join(f"- {line}." for line in findings)}"""


def _walk_forward(manifest: Manifest) -> str:
    table = _table(manifest.walk_forward, {key: METRICS[key] for key in FOLD_METRICS})
    mine = manifest.walk_forward[manifest.kind]
    return f"""## On the walk-forward folds

Means over {mine["folds"]:.0f} purged folds before the final part, of which {mine["folds_with_spikes"]:.0f} hold a
spike (PR-AUC, lift and F1 are means over those). Penalty and decision threshold were chosen here, so these
figures flatter a little.

{NEWLINE.join(table)}"""


def _table(scores: dict[str, dict[str, float]], rows: dict[str, str]) -> list[str]:
    lines = [f"| | {' | '.join(scores)} |", "|---" * (len(scores) + 1) + "|"]
    for key, meaning in rows.items():
        lines.append(f"| {meaning} | {' | '.join(f'{one[key]:.4f}' for one in scores.values())} |")
    return lines


def _limits(manifest: Manifest) -> str:
    return f"""## Limits

- One product, one exchange, {manifest.rows["ticks"]:,} ticks of a few hours on three days. The final part is about
  an hour: the intervals above are wide because so little is known.
- τ is an absolute level, of a quiet morning. In a livelier market most minutes are above it, and the model says so.
- The recordings' times are the recorder's, not the exchange's.
- Scores elsewhere, on other data and at other base rates, do not compare with these.
- To make it again: `volcast train --version {manifest.version} --force`; the same data, code and seed give the same
  bytes."""


if __name__ == "__main__":
    sys.stdout.write(render(read_bundle(Path(sys.argv[1]))[0]))
