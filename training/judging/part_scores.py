"""Scores of the rows of a part under each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.bundle import Survival
from common.errors import InputError
from training.forecasting.designs import TRAILING_FEATURE
from training.forecasting.distribution import Forecasts
from training.forecasting.kinds import SIZE_LEVELS
from training.judging.blocks import Blocks
from training.judging.comparison import PrAucSamples, RowGroups, groupings, pr_auc_samples
from training.judging.episodes import Line
from training.judging.evaluation_result import EvalSettings, SizeEval
from training.judging.events import Detection, brier, detection, log_loss
from training.judging.figures import areas
from training.judging.scores import PINBALL_LEVELS, covered, randomized_pit, row_scores
from training.problem.forecast_rows import ForecastRows
from training.problem.target import BPS, NS_PER_S

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

COVERAGES = (0.5, 0.8, 0.95)
PIT_BINS = 20
DECIDING = ("crps_log", "crps_bps", "qlike", "log_loss", "brier")  # means over rows; less is better
GROUPED = ("crps_log", "qlike", "coverage_80", "coverage_95", "log_loss", "brier")
VOLATILITY = "volatility"  # feature that stands for the regime if the schema has no trailing hour


@dataclass(frozen=True, slots=True)
class SingleSize:
    """Answers of a model without a distribution: the probability of reaching the served size, (n,)."""

    probability: Floats


class ScoredRows(Protocol):
    """Test rows with forecasts, such as ForecastPart."""

    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> ForecastRows: ...
    @property
    def forecasts(self) -> Mapping[str, Forecasts | SingleSize]:
        """kind -> forecasts of the rows."""
        ...

    @property
    def sizes(self) -> Survival:
        """Outcomes of the training rows, in bps."""
        ...


@dataclass(frozen=True, slots=True)
class KindScores:
    """Scores of a model on a part.

    metrics: means. rows: name -> score of each row (n,), of DECIDING and GROUPED. probability: of the served size;
    of_multiple: of a multiple of the trailing hour. None, (): the model or the schema does not define it.
    """

    metrics: dict[str, float]
    rows: dict[str, Floats]
    probability: Floats
    detection: Detection
    pr_auc: PrAucSamples | None
    of_multiple: Floats | None = None
    pit: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class PartScores:
    """A part with the scores of all its models. event, event_of_multiple: (n,)."""

    part: ScoredRows
    line: Line
    blocks: Blocks
    event: Bools
    event_of_multiple: Bools | None
    base_rate: float
    sizes: tuple[SizeEval, ...]
    groups: tuple[RowGroups, ...]
    kinds: dict[str, KindScores] = field(default_factory=dict)


def score_part(part: ScoredRows, kind: str, settings: EvalSettings) -> PartScores:
    """Scores of every model of the part, `kind` first. Raises InputError if the part has no row or no such model."""
    rows = part.rows
    if not len(rows):
        raise InputError(f"nothing to evaluate: {part.name} has no row")
    if kind not in part.forecasts:
        models = ", ".join(part.forecasts) or "none"
        raise InputError(f"nothing to evaluate: {part.name} has no forecasts of {kind}, only of {models}")
    multiple_bps = sizes_of_multiple(rows, settings)
    # The same product may be in several recordings at the same time.
    source = rows.product * len(rows.recordings) + rows.recording
    scores = PartScores(
        part=part,
        line=Line.of(source, rows.time_ns, int(settings.horizon_s * NS_PER_S)),
        blocks=Blocks.of(rows.time_ns, int(settings.block_s * NS_PER_S)),
        event=np.asarray(rows.outcome_bps >= settings.spike_bps),
        event_of_multiple=None if multiple_bps is None else np.asarray(rows.outcome_bps >= multiple_bps),
        base_rate=part.sizes.share_at(settings.spike_bps),
        sizes=_sizes(part),
        groups=_groups(rows),
    )
    for name in sorted(part.forecasts, key=lambda name: name != kind):
        scores.kinds[name] = _kind_scores(scores, part.forecasts[name], settings)
    return scores


def sizes_of_multiple(rows: ForecastRows, settings: EvalSettings) -> Floats | None:
    """The multiple of the trailing hour's volatility of each row, (n,) in bps; None: the schema has no such hour."""
    feature = TRAILING_FEATURE.get(rows.schema.name)
    if feature is None:
        return None
    trailing_bps = rows.features[:, rows.schema.names.index(feature)] * BPS
    return np.asarray(settings.multiple * np.maximum(trailing_bps, settings.floor_bps), dtype=np.float64)


def size_at(sizes: Survival, level: float) -> float:
    """The quantile of the training rows at a level, in bps."""
    return float(np.exp(np.interp(1 - level, sizes.shares[::-1], np.log(sizes.values[::-1]))))


def _sizes(part: ScoredRows) -> tuple[SizeEval, ...]:
    if any(isinstance(forecasts, SingleSize) for forecasts in part.forecasts.values()):
        return ()
    outcome, sizes = part.rows.outcome_bps, [size_at(part.sizes, level) for level in SIZE_LEVELS]
    return tuple(
        SizeEval(level, size, part.sizes.share_at(size), float(np.mean(outcome >= size)))
        for level, size in zip(SIZE_LEVELS, sizes, strict=True)
    )


def _groups(rows: ForecastRows) -> tuple[RowGroups, ...]:
    names = rows.schema.names
    feature = TRAILING_FEATURE.get(rows.schema.name, VOLATILITY)
    known = feature in names
    trailing = rows.features[:, names.index(feature)] if known else np.ones(len(rows))
    product = [rows.products[code] for code in rows.product.tolist()]
    return tuple(group for group in groupings(rows.time_ns, product, trailing) if known or group.by != "regime")


def _kind_scores(scores: PartScores, forecasts: Forecasts | SingleSize, settings: EvalSettings) -> KindScores:
    event, outcome = scores.event, scores.part.rows.outcome_bps
    if isinstance(forecasts, SingleSize):
        probability = forecasts.probability
    else:
        probability = forecasts.exceedance(settings.spike_bps)
    _require_probabilities(probability, scores.part.name)
    rows = {"log_loss": log_loss(event, probability), "brier": brier(event, probability)}
    means: dict[str, float] = {}
    pit: tuple[float, ...] = ()
    of_multiple = None
    if not isinstance(forecasts, SingleSize):
        distribution, means, pit = _distribution(forecasts, outcome, settings)
        rows = distribution | rows
        means |= _at_sizes(forecasts, outcome, scores.sizes)
        sizes = sizes_of_multiple(scores.part.rows, settings)
        of_multiple = None if sizes is None else forecasts.exceedance(sizes)
    detected = detection(event, probability, settings.alert_level)
    both = event.any() and not event.all()
    ranks = pr_auc_samples(event, probability, scores.blocks, settings.seed) if both else None
    metrics = {name: float(values.mean()) for name, values in rows.items()} | means
    metrics |= _of_detection(detected, probability)
    return KindScores(_defined(metrics), rows, probability, detected, ranks, of_multiple, pit)


def _distribution(
    forecasts: Forecasts, outcome: Floats, settings: EvalSettings
) -> tuple[dict[str, Floats], dict[str, float], tuple[float, ...]]:
    """Scores of each row, means of other scores, and the PIT histogram."""
    scored = row_scores(forecasts, outcome, settings.floor_bps)
    rows = {"crps_log": scored.crps_log, "crps_bps": scored.crps_bps, "qlike": scored.qlike}
    for coverage in COVERAGES:
        rows[f"coverage_{coverage * 100:.0f}"] = covered(scored.pit_low, scored.pit_high, coverage)
    losses = scored.pinball_log.mean(axis=0).tolist()
    means = {f"pinball_{level:g}": loss for level, loss in zip(PINBALL_LEVELS.tolist(), losses, strict=True)}
    counts, _ = np.histogram(randomized_pit(scored.pit_low, scored.pit_high, settings.seed), PIT_BINS, (0.0, 1.0))
    return rows, means, tuple((counts / len(outcome)).tolist())


def rank_scores(event: Bools, probability: Floats) -> tuple[float, float]:
    """PR-AUC (average precision) and ROC-AUC of rows (n,); NaN if the rows hold a single class."""
    pr_auc, roc_auc = areas(event.astype(np.int8), probability, np.zeros(len(event), np.int64), np.ones((1, 1)))
    return float(pr_auc[0]), float(roc_auc[0])


def _at_sizes(forecasts: Forecasts, outcome: Floats, sizes: tuple[SizeEval, ...]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for size in sizes:
        event, probability = outcome >= size.spike_bps, forecasts.exceedance(size.spike_bps)
        pr_auc, roc_auc = rank_scores(event, probability)
        suffix = f"q{size.level * 100:.0f}"
        metrics |= {
            f"log_loss_{suffix}": float(log_loss(event, probability).mean()),
            f"brier_{suffix}": float(brier(event, probability).mean()),
            f"pr_auc_{suffix}": pr_auc,
            f"roc_auc_{suffix}": roc_auc,
        }
    return metrics


def _of_detection(detected: Detection, probability: Floats) -> dict[str, float]:
    names = ("pr_auc", "roc_auc", "f1", "precision", "recall")
    alert_rate = float(np.mean(probability >= detected.alert_level))
    own = {name: float(getattr(detected, name)) for name in names}
    return own | {"alert_rate": alert_rate, "mean_probability": float(probability.mean())}


def _defined(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _require_probabilities(probability: Floats, part: str) -> None:
    wrong = ~((probability >= 0) & (probability <= 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{part}: expected probabilities in [0, 1], got {probability[row]:g} in row {row}")
