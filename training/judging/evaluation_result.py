"""The scores of forecasts, as reports/model_eval.json holds them. docs/model_eval.md is made from these descriptions.

A score that the rows do not define is absent, for example PR-AUC without an event. An interval that too few blocks of
time define has the ends null.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from common.errors import InputError
from training.judging.blocks import DECISION_RESAMPLES
from training.judging.comparison import Interval

FORMAT = 2


def described(description: str) -> Any:
    return msgspec.Meta(description=description)


class Confusion(msgspec.Struct, frozen=True):
    """Rows by alert and event."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


class SizeEval(msgspec.Struct, frozen=True):
    """A spike size that is a quantile of the training rows, at which all models are scored."""

    level: Annotated[float, described("of the quantile")]
    spike_bps: float
    base_rate: Annotated[float, described("share of training rows at or above the size")]
    event_rate: Annotated[float, described("share of these rows at or above the size")]


class CostEval(msgspec.Struct, frozen=True):
    """Cost per hour in values of a caught spike, by the cost of an alarm as a share of that value."""

    chosen_on: Annotated[str, described('rows on which the alert levels were chosen: "earlier parts" or "first half"')]
    ratios: tuple[float, ...]
    levels: Annotated[tuple[float | None, ...], described("cheapest alert level; null: no alert at any probability")]
    cost: tuple[float, ...]
    always: Annotated[tuple[float, ...], described("of an alert at every row")]
    perfect: Annotated[tuple[float, ...], described("of an alarm for each spike and no other alarm")]


class AlertEval(msgspec.Struct, frozen=True):
    """Alerts for a spike size. caught_at_budget, cost_curve: of the last part, for the model and its reference."""

    alert_level: float
    episodes: int
    caught_in_advance: Annotated[float | None, described("share of episodes; null: no episode")]
    alarms_per_hour: float
    false_alarms_per_hour: float
    lead_s: Annotated[tuple[float, ...], described("quantiles 0.1, 0.25, 0.5, 0.75, 0.9 over the caught episodes")]
    caught_at_budget: Annotated[
        Interval | None,
        described("share caught in advance at the level that keeps the budget of false alarms, chosen on these rows"),
    ] = None
    cost_curve: CostEval | None = None


class KindEval(msgspec.Struct, frozen=True):
    """A model or baseline on a part."""

    metrics: Annotated[dict[str, float], described("by name; the table below defines them")]
    confusion: Annotated[Confusion, described("at the served size and alert level")]
    classification_report: Annotated[
        dict[str, Any], described("scikit-learn's, at the served size and alert level; classes calm and spike")
    ]
    alerts: Annotated[AlertEval, described("at the served size")]
    alerts_of_multiple: Annotated[
        AlertEval | None, described("at settings.multiple times the trailing hour; null: no trailing hour")
    ] = None
    pit: Annotated[tuple[float, ...], described("shares of rows in equal bins of the PIT; 1 / bins if calibrated")] = ()


class Difference(msgspec.Struct, frozen=True):
    """A model's score minus the reference's, with both on the same draws of blocks."""

    model: str
    reference: str
    metric: str
    interval: Annotated[Interval, described("point, low, high, blocks, draws")]
    better: Annotated[bool | None, described("true: the whole interval favours the model; null: undecided")]


class GroupEval(msgspec.Struct, frozen=True):
    """Rows of a day, hour, product or regime."""

    name: str
    rows: int
    events: Annotated[int, described("rows at or above the served size")]
    models: Annotated[dict[str, dict[str, float]], described("the model and its reference -> metric -> score")]
    difference: Annotated[Interval | None, described("of the grouping's metric, model minus reference")] = None


class GroupingEval(msgspec.Struct, frozen=True):
    """A part by day, hour of the day (UTC), product, or regime: tercile of the trailing volatility."""

    by: str
    metric: Annotated[str, described('of the differences: "crps_log", or "log_loss" for a model of a single size')]
    groups: tuple[GroupEval, ...]


class PartEval(msgspec.Struct, frozen=True):
    """A stretch of time that no model was trained on."""

    name: Annotated[str, described('"fold 1"…, "final", or "evaluation" for a bundle on recordings')]
    start_ns: Annotated[int, described("event time of the first row, UTC")]
    end_ns: Annotated[int, described("event time of the last row")]
    rows: int
    events: Annotated[int, described("rows at or above the served size")]
    observed_hours: Annotated[float, described("time that the rows cover")]
    blocks: Annotated[int, described("blocks of time that intervals draw from")]
    spike_bps: Annotated[float, described("served size")]
    base_rate: Annotated[float, described("share of training rows at or above the served size")]
    sizes: Annotated[tuple[SizeEval, ...], described("empty: the model answers at a single size")]
    models: Annotated[dict[str, KindEval], described("the evaluated model first, then the baselines")]
    differences: tuple[Difference, ...]
    groupings: tuple[GroupingEval, ...]


class FoldsEval(msgspec.Struct, frozen=True):
    """All folds together."""

    folds: int
    rows: int
    models: Annotated[
        dict[str, dict[str, float]],
        described("model -> metric -> mean over the folds that define it, by rows"),
    ]
    differences: tuple[Difference, ...]


class ModelRef(msgspec.Struct, frozen=True):
    """The evaluated bundle."""

    name: str
    version: str
    kind: str
    schema: str
    schema_hash: str
    model_sha256: str


class DataRef(msgspec.Struct, frozen=True):
    """The data of the evaluation."""

    files: Annotated[tuple[str, ...], described("names, without folders")] = ()
    sha256: Annotated[str, described("of the files' names and bytes; empty: not known")] = ""
    counts: Annotated[dict[str, int], described("read, dropped by reason, kept")] = {}
    products: tuple[str, ...] = ()


class PredictionsRef(msgspec.Struct, frozen=True):
    """Predictions from a file, evaluated next to the bundle's own answers."""

    file: str
    predictions: Annotated[int, described("read")]
    without_probability: int
    rows_matched: Annotated[int, described("rows of the recording with a prediction: these rows are evaluated")]
    rows_unmatched: int
    max_abs_difference: Annotated[float, described("of the probability, to the bundle's answer for the same row")]
    max_rel_difference_median: Annotated[float | None, described("of the median; null: no medians")] = None
    max_rel_difference_quantiles: Annotated[float | None, described("of all quantiles; null: no quantiles")] = None


class EvalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the forecasts were evaluated."""

    spike_bps: Annotated[float, described("served size")]
    alert_level: Annotated[float, described("probability from which an alert is raised")] = 0.5
    block_s: Annotated[float, described("length of the bootstrap's blocks")] = 3660.0
    seed: int = 0
    draws: Annotated[int, described("of every interval")] = DECISION_RESAMPLES
    horizon_s: float = 60.0
    floor_bps: Annotated[float, described("a smaller volatility counts as this")] = 0.05
    multiple: Annotated[float, described("of the trailing hour, of alerts_of_multiple")] = 3.0
    false_per_hour: Annotated[float, described("budget of false alarms")] = 1.0


class ModelEval(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    format: Annotated[int, described("2; another number is another layout")] = FORMAT
    source: Annotated[str, described('"experiment", "bundle" or "predictions"')] = "experiment"
    kind: Annotated[str, described("the evaluated model")]
    reference: Annotated[str | None, described('baseline of the differences: "har", or null without it')]
    model: ModelRef | None = None
    data: DataRef = DataRef()
    predictions: PredictionsRef | None = None
    settings: EvalSettings
    parts: tuple[PartEval, ...]
    walk_forward: Annotated[FoldsEval | None, described("null: there are no folds")] = None
    notes: Annotated[tuple[str, ...], described("rows and baselines that are left out, and why")] = ()

    def part(self, name: str) -> PartEval | None:
        return next((part for part in self.parts if part.name == name), None)

    @property
    def headline(self) -> PartEval:
        """The part that figures are quoted from: the last."""
        return self.parts[-1]


def encode(evaluation: ModelEval) -> bytes:
    """JSON for a file, a line for each value."""
    return msgspec.json.format(msgspec.json.encode(evaluation), indent=1) + b"\n"


def decode(data: bytes, source: str) -> ModelEval:
    """Raises InputError if the data is not an evaluation of this format."""
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.format != FORMAT:
            raise InputError(f"evaluation {source}: format: expected {FORMAT}, got {head.format}")
        return msgspec.json.decode(data, type=ModelEval)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"evaluation {source}: {' '.join(str(error).split())}") from None


class _Head(msgspec.Struct):
    format: int
