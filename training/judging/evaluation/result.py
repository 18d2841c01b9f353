"""What an evaluation says, as it is written to reports/model_eval.json (docs/model_eval.md is made from this).

A metric that the rows do not define is absent from its dictionary; an interval that too few draws define is
null. Nothing is filled in.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from common.errors import InputError

FORMAT = 1


def said(description: str) -> Any:
    return msgspec.Meta(description=description)


class Figure(msgspec.Struct, frozen=True):
    """A value with the middle 95 % of its block bootstrap."""

    value: float
    low: Annotated[float | None, said("2.5 % of the draws lie below; null where fewer than 80 % define the metric")]
    high: Annotated[float | None, said("97.5 % of the draws lie below")]


class Confusion(msgspec.Struct, frozen=True):
    """Rows by what was announced and what came."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


class Budget(msgspec.Struct, frozen=True):
    """The alert rule that stays within a number of alarms an hour."""

    alarms_per_hour: Annotated[float, said("what was allowed")]
    threshold: Annotated[float, said("probability from which an alert is raised")]
    chosen_on: Annotated[
        str,
        said(
            '"earlier parts": on the out-of-sample rows of the parts before this one; "hindsight": on these rows '
            "themselves, where there is no part before, so its precision is what could have been had"
        ),
    ]
    confusion: Confusion


class ReliabilityBin(msgspec.Struct, frozen=True):
    """Rows whose probabilities lie near each other: do spikes come as often as was said?"""

    rows: int
    mean_probability: float
    observed: Annotated[Figure, said("rate of spikes")]


class CurvePoint(msgspec.Struct, frozen=True):
    """One threshold of the precision-recall curve."""

    threshold: float
    recall: float
    precision: float


class ModelFigures(msgspec.Struct, frozen=True):
    """One model or baseline on one part."""

    decision_threshold: Annotated[float, said("chosen on validation rows; precision, recall and alarms are at it")]
    metrics: Annotated[dict[str, Figure], said("by name; the table below says what each is")]
    confusion: Annotated[Confusion, said("at the decision threshold")]
    budget: Annotated[Budget | None, said("null where already the highest probability raises too many alarms")]
    reliability: Annotated[tuple[ReliabilityBin, ...], said("bins of equal numbers of rows, from the lowest up")]
    curve: Annotated[
        tuple[CurvePoint, ...],
        said("precision and recall, thinned, from the highest threshold down; empty of one class"),
    ]


class Difference(msgspec.Struct, frozen=True):
    """A model's metric less a reference's, both on the same draws."""

    model: str
    reference: str
    metric: str
    value: float
    low: float | None
    high: float | None
    better: Annotated[bool | None, said("true: the whole interval favours the model; false: the reference; null: open")]


class BlockLength(msgspec.Struct, frozen=True):
    """The first difference again, under longer blocks: does its interval hang on the block length?"""

    block_s: float
    blocks: int
    difference: Difference


class Group(msgspec.Struct, frozen=True):
    """Rows of one day, hour, product or regime."""

    name: Annotated[str, said('"2025-12-06", "07" (hour, UTC), "BTC-USD", "calm"')]
    rows: int
    positives: int
    models: Annotated[dict[str, dict[str, Figure]], said("model -> metric -> figure, of those that count rows")]


class Grouping(msgspec.Struct, frozen=True):
    """A part cut up one way."""

    by: Annotated[str, said('"day", "hour", "product" or "regime"')]
    note: Annotated[str, said("what the groups are")]
    groups: tuple[Group, ...]


class Part(msgspec.Struct, frozen=True):
    """A stretch of time that no model had seen."""

    name: Annotated[str, said('"final", "fold 1"…, or "evaluation" for a bundle over recordings')]
    start_ns: Annotated[int, said("event time of the first row, UTC")]
    end_ns: Annotated[int, said("event time of the last row, UTC")]
    rows: int
    positives: int
    observed_hours: Annotated[float, said("time that the rows stand for")]
    episodes: Annotated[int, said("spike episodes")]
    blocks: Annotated[int, said("blocks of time that were drawn from; with fewer than ten, intervals say little")]
    label_threshold: Annotated[float, said("τ: realized volatility, log")]
    climatology: Annotated[float, said("rate of spikes that was known beforehand")]
    models: Annotated[dict[str, ModelFigures], said("the model first, then the baselines")]
    differences: tuple[Difference, ...]
    block_lengths: tuple[BlockLength, ...]
    groupings: tuple[Grouping, ...]


class Means(msgspec.Struct, frozen=True):
    """Means over the walk-forward folds, each metric over those that define it."""

    folds: int
    folds_with_both_classes: int
    models: Annotated[dict[str, dict[str, Figure]], said("model -> metric -> mean; blocks are drawn within each fold")]
    differences: tuple[Difference, ...]


class ModelRef(msgspec.Struct, frozen=True):
    """The bundle that was evaluated."""

    name: str
    version: str
    kind: str
    schema: str
    schema_hash: str
    model_sha256: str


class DataRef(msgspec.Struct, frozen=True):
    """The data it was evaluated on."""

    files: Annotated[tuple[str, ...], said("names, without folders")] = ()
    sha256: Annotated[str, said("of the files' names and bytes; empty where not known")] = ""
    counts: Annotated[dict[str, int], said("read, dropped by reason, kept")] = {}
    products: tuple[str, ...] = ()


class PredictionsRef(msgspec.Struct, frozen=True):
    """Predictions that were given, not made here."""

    file: str
    predictions: Annotated[int, said("read")]
    without_probability: Annotated[int, said("marked missing by whoever made them")]
    rows_matched: Annotated[int, said("rows of the recording that have a prediction: these are evaluated")]
    rows_unmatched: Annotated[int, said("rows that have none")]
    max_abs_difference: Annotated[
        float | None, said("largest difference to what the bundle says of the same rows; null without a bundle")
    ]


class Settings(msgspec.Struct, frozen=True):
    """How it was evaluated."""

    horizon_s: float = 60.0
    block_s: Annotated[float, said("length of the bootstrap's blocks")] = 300.0
    resamples: int = 1000
    group_resamples: Annotated[int, said("of the groups' intervals")] = 200
    alarms_per_hour: Annotated[float, said("the alert budget")] = 6.0
    seed: int = 0


class ModelEval(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    format: Annotated[int, said("1; another number is another layout")] = FORMAT
    source: Annotated[str, said('"experiment", "bundle" or "predictions"')]
    primary: Annotated[str, said("the model that all this is about; the others are its baselines and rivals")]
    reference: Annotated[str | None, said('the baseline to beat, "har" where there is one')]
    model: ModelRef | None = None
    data: DataRef = DataRef()
    predictions: PredictionsRef | None = None
    settings: Settings
    parts: tuple[Part, ...]
    walk_forward: Annotated[Means | None, said("null where there are no folds")] = None
    notes: Annotated[tuple[str, ...], said("what a reader must know: what is left out, and why")] = ()

    def part(self, name: str) -> Part | None:
        return next((one for one in self.parts if one.name == name), None)

    @property
    def headline(self) -> Part:
        """The part that figures are quoted from: the last."""
        return self.parts[-1]


def encode(evaluation: ModelEval) -> bytes:
    """JSON for a file, a line a value."""
    return msgspec.json.format(msgspec.json.encode(evaluation), indent=1) + b"\n"


def decode(data: bytes, source: str) -> ModelEval:
    """Raises InputError where it is no evaluation of this format."""
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.format != FORMAT:
            raise InputError(f"evaluation {source}: format: expected {FORMAT}, got {head.format}")
        return msgspec.json.decode(data, type=ModelEval)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"evaluation {source}: {' '.join(str(error).split())}") from None


class _Head(msgspec.Struct):
    format: int
