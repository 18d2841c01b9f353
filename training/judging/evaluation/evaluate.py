"""Scored parts in, a ModelEval out. No file, no clock: the same rows and seed give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from training.judging.class_counts import unranked
from training.judging.evaluation.blocks import Blocks, interval, mean_of_defined
from training.judging.evaluation.episodes import NS_PER_S, Line, budget_threshold
from training.judging.evaluation.figures import (
    METRICS,
    Forecast,
    Samples,
    bin_sums,
    equal_mass_edges,
    figures,
    row_figures,
)
from training.judging.evaluation.groups import GroupRows, groupings
from training.judging.evaluation.result import (
    BlockLength,
    Budget,
    Confusion,
    CurvePoint,
    Difference,
    Figure,
    Group,
    Grouping,
    Means,
    ModelEval,
    ModelFigures,
    Part,
    ReliabilityBin,
    Settings,
)
from training.judging.scored_part import Scored

REFERENCE = "har"  # the baseline that is hardest to beat (docs/decisions/0016), so every model is set against it
OLD_REFERENCE = "har_logit"  # its name in bundles of before
COMPARED = ("pr_auc", "pr_auc_lift", "roc_auc", "brier", "brier_skill", "log_loss", "ece", "f1")
GROUP_METRICS = ("base_rate", "pr_auc", "pr_auc_lift", "roc_auc", "brier", "brier_skill", "precision", "recall", "f1")
LONGER_BLOCKS = (3, 12)
RELIABILITY_BINS = 10
CURVE_POINTS = 200
FEW_BLOCKS = 10
DIGITS = 9  # hides the last bits, which differ between processors

Progress = Callable[[str], None]


def evaluate_scored(
    parts: Sequence[Scored],
    primary: str,
    settings: Settings = Settings(),  # noqa: B008  # frozen
    *,
    products: Sequence[str] = (),
    source: str = "experiment",
    progress: Progress = lambda step: None,
) -> ModelEval:
    """Evaluates each part; parts named "fold …" are averaged too.

    products: names of the product codes. Raises InputError for no rows, a model that a part lacks, or a
    probability that is none.
    """
    _require(parts, primary)
    reference = next((one for one in (REFERENCE, OLD_REFERENCE) if one in parts[0].probabilities), None)
    looked_at = []
    for number, scored in enumerate(parts):
        progress(f"{scored.part}: {len(scored):,} rows, {len(scored.probabilities)} models")
        earlier = [one for one in parts[:number] if one.time_ns[-1] < scored.time_ns[0]]
        looked_at.append(_Look.at(scored, earlier, primary, settings, number))
    folds = [one for one in looked_at if one.scored.part.startswith("fold")]
    return ModelEval(
        source=source,
        primary=primary,
        reference=reference,
        settings=settings,
        parts=tuple(_part(one, primary, reference, settings, products) for one in looked_at),
        walk_forward=_means(folds, primary, reference) if folds else None,
        notes=tuple(_notes(looked_at, reference)),
    )


def _require(parts: Sequence[Scored], primary: str) -> None:
    if not parts:
        raise InputError("nothing to evaluate: no part was given")
    for part in parts:
        if len(part.y) == 0:
            raise InputError(f"nothing to evaluate: {part.part} has no row")
        if primary not in part.probabilities:
            raise InputError(
                f"nothing to evaluate: {part.part} has no probabilities of {primary}, only of "
                f"{', '.join(part.probabilities) or 'none'}"
            )
        for name, probability in part.probabilities.items():
            wrong = ~((probability >= 0) & (probability <= 1))
            if wrong.any():
                row = int(np.argmax(wrong))
                raise InputError(
                    f"{part.part}: {name}: expected probabilities in [0, 1], got {probability[row]:g} in row {row} "
                    f"({int(wrong.sum()):,} such rows)"
                )


@dataclass(frozen=True, slots=True)
class _Look:
    """A part with its events, its draws, and all models under them."""

    scored: Scored
    line: Line
    blocks: Blocks
    forecasts: dict[str, Forecast]  # the primary first
    chosen_on: str
    values: dict[str, Samples]  # one "draw": the blocks as they are
    samples: dict[str, Samples]

    @classmethod
    def at(cls, scored: Scored, earlier: Sequence[Scored], primary: str, settings: Settings, number: int) -> _Look:
        horizon_ns = int(settings.horizon_s * NS_PER_S)
        line = Line.of(scored.product, scored.time_ns, horizon_ns)
        blocks = Blocks.of(scored.time_ns, int(settings.block_s * NS_PER_S))
        draws = blocks.draws(settings.resamples, [settings.seed, number])
        names = [primary, *(name for name in scored.probabilities if name != primary)]
        forecasts = {
            name: Forecast(
                scored.y,
                scored.probabilities[name],
                scored.climatology,
                float(scored.decision_thresholds[name]),
                _budget_threshold(name, scored, line, earlier, horizon_ns, settings.alarms_per_hour),
            )
            for name in names
        }
        return cls(
            scored=scored,
            line=line,
            blocks=blocks,
            forecasts=forecasts,
            chosen_on="earlier parts" if earlier else "hindsight",
            values={name: figures(one, line, blocks, blocks.once()) for name, one in forecasts.items()},
            samples={name: figures(one, line, blocks, draws) for name, one in forecasts.items()},
        )


def _budget_threshold(
    name: str, scored: Scored, line: Line, earlier: Sequence[Scored], horizon_ns: int, alarms_per_hour: float
) -> float | None:
    """From the rows of earlier parts, of which the model knew as little; with none before, in hindsight."""
    if not earlier:
        return budget_threshold(line, scored.probabilities[name], alarms_per_hour)
    before = Line.of(
        np.concatenate([one.product for one in earlier]),
        np.concatenate([one.time_ns for one in earlier]),
        horizon_ns,
    )
    return budget_threshold(before, np.concatenate([one.probabilities[name] for one in earlier]), alarms_per_hour)


def _part(look: _Look, primary: str, reference: str | None, settings: Settings, products: Sequence[str]) -> Part:
    scored = look.scored
    differences = _differences(look.values, look.samples, primary, reference)
    return Part(
        name=scored.part,
        start_ns=int(scored.time_ns[0]),
        end_ns=int(scored.time_ns[-1]),
        rows=len(scored.y),
        positives=int(scored.y.sum()),
        observed_hours=_rounded(look.line.hours),
        episodes=len(look.line.runs(scored.y[look.line.order] == 1)),
        blocks=look.blocks.count,
        label_threshold=float(scored.threshold),
        climatology=_rounded(scored.climatology),
        models={name: _model(look, name, settings) for name in look.forecasts},
        differences=differences,
        block_lengths=_block_lengths(look, differences, settings),
        groupings=_groupings(look, settings, products),
    )


def _model(look: _Look, name: str, settings: Settings) -> ModelFigures:
    forecast = look.forecasts[name]
    draws = look.blocks.draws(settings.resamples, settings.seed)
    budget = None
    if forecast.budget_threshold is not None:
        budget = Budget(
            settings.alarms_per_hour,
            forecast.budget_threshold,
            look.chosen_on,
            _confusion(forecast, forecast.budget_threshold),
        )
    return ModelFigures(
        decision_threshold=forecast.threshold,
        metrics=_figures(look.values[name], look.samples[name]),
        confusion=_confusion(forecast, forecast.threshold),
        budget=budget,
        reliability=_reliability(forecast, look.blocks, draws),
        curve=_curve(forecast),
    )


def _figures(values: Samples, samples: Samples, only: Sequence[str] = tuple(METRICS)) -> dict[str, Figure]:
    return {
        name: _figure(float(values[name][0]), samples[name])
        for name in only
        if name in values and not np.isnan(values[name][0])
    }


def _figure(value: float, samples: NDArray[np.float64]) -> Figure:
    found = interval(samples)
    low, high = (None, None) if found is None else (_rounded(found[0]), _rounded(found[1]))
    return Figure(_rounded(value), low, high)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _confusion(forecast: Forecast, threshold: float) -> Confusion:
    alert, spike = forecast.probability >= threshold, forecast.y == 1
    return Confusion(
        true_positives=int(np.count_nonzero(alert & spike)),
        false_positives=int(np.count_nonzero(alert & ~spike)),
        false_negatives=int(np.count_nonzero(~alert & spike)),
        true_negatives=int(np.count_nonzero(~alert & ~spike)),
    )


def _reliability(forecast: Forecast, blocks: Blocks, draws: NDArray[np.float64]) -> tuple[ReliabilityBin, ...]:
    edges = equal_mass_edges(forecast.probability, RELIABILITY_BINS)
    y = forecast.y.astype(np.float64)
    rows, probabilities, spikes = (one[0] for one in bin_sums(y, forecast.probability, edges, blocks, blocks.once()))
    drawn_rows, _, drawn_spikes = bin_sums(y, forecast.probability, edges, blocks, draws)
    rates = np.divide(drawn_spikes, drawn_rows, out=np.full_like(drawn_rows, np.nan), where=drawn_rows > 0)
    return tuple(
        ReliabilityBin(
            rows=int(rows[one]),
            mean_probability=_rounded(probabilities[one] / rows[one]),
            observed=_figure(spikes[one] / rows[one], rates[:, one]),
        )
        for one in np.flatnonzero(rows)
    )


def _curve(forecast: Forecast) -> tuple[CurvePoint, ...]:
    spikes = int(forecast.y.sum())
    if spikes in (0, len(forecast.y)):
        return ()
    order = np.argsort(-forecast.probability, kind="stable")
    ranked = forecast.probability[order]
    hits = np.cumsum(forecast.y[order], dtype=np.int64)
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    # Even in recall, where the curve is read, and with its first point, which may be anything.
    recall = hits[ends] / spikes
    kept = np.unique(np.searchsorted(recall, np.linspace(recall[0], 1, CURVE_POINTS)).clip(0, len(ends) - 1))
    return tuple(
        CurvePoint(
            threshold=_rounded(ranked[place]),
            recall=_rounded(hits[place] / spikes),
            precision=_rounded(hits[place] / (place + 1)),
        )
        for place in ends[kept].tolist()
    )


def _differences(
    values: Mapping[str, Samples], samples: Mapping[str, Samples], primary: str, reference: str | None
) -> tuple[Difference, ...]:
    """The primary against the reference first and then all others; every other model against the reference."""
    others = sorted((name for name in values if name != primary), key=lambda name: name != reference)
    pairs = [(primary, other) for other in others]
    pairs += [(other, reference) for other in others if reference is not None and other != reference]
    found = []
    for model, against in pairs:
        for metric in COMPARED:
            value = float(values[model][metric][0] - values[against][metric][0])
            if not np.isnan(value):
                found.append(_difference(model, against, metric, value, samples))
    return tuple(found)


def _difference(model: str, reference: str, metric: str, value: float, samples: Mapping[str, Samples]) -> Difference:
    figure = _figure(value, samples[model][metric] - samples[reference][metric])
    better = None
    if figure.low is not None and figure.high is not None and (figure.low > 0 or figure.high < 0):
        better = (figure.low > 0) == (METRICS[metric][1] > 0)
    return Difference(model, reference, metric, figure.value, figure.low, figure.high, better)


def _block_lengths(look: _Look, differences: Sequence[Difference], settings: Settings) -> tuple[BlockLength, ...]:
    """The difference in PR-AUC that matters most, with blocks as they are and longer."""
    if not differences or differences[0].metric != "pr_auc":
        return ()
    first = differences[0]
    found = [BlockLength(settings.block_s, look.blocks.count, first)]
    for factor in LONGER_BLOCKS:
        block_s = settings.block_s * factor
        blocks = Blocks.of(look.scored.time_ns, int(block_s * NS_PER_S))
        draws = blocks.draws(settings.resamples, settings.seed)
        samples = {name: row_figures(look.forecasts[name], blocks, draws) for name in (first.model, first.reference)}
        again = _difference(first.model, first.reference, "pr_auc", first.value, samples)
        found.append(BlockLength(block_s, blocks.count, again))
    return tuple(found)


def _groupings(look: _Look, settings: Settings, products: Sequence[str]) -> tuple[Grouping, ...]:
    horizon_ns = int(settings.horizon_s * NS_PER_S)
    return tuple(
        Grouping(one.by, one.note, tuple(_group(look, rows, settings) for rows in one.groups))
        for one in groupings(look.scored, horizon_ns, products)
    )


def _group(look: _Look, rows: GroupRows, settings: Settings) -> Group:
    place = rows.rows
    blocks = Blocks.of(look.scored.time_ns[place], int(settings.block_s * NS_PER_S))
    draws = blocks.draws(settings.group_resamples, settings.seed)
    models = {}
    for name, whole in look.forecasts.items():
        forecast = Forecast(whole.y[place], whole.probability[place], whole.climatology, whole.threshold)
        values = row_figures(forecast, blocks, blocks.once())
        models[name] = _figures(values, row_figures(forecast, blocks, draws), GROUP_METRICS)
    return Group(rows.name, len(place), int(look.scored.y[place].sum()), models)


def _means(folds: Sequence[_Look], primary: str, reference: str | None) -> Means:
    names = [name for name in folds[0].values if all(name in fold.values for fold in folds)]
    values = {name: _mean([fold.values[name] for fold in folds]) for name in names}
    samples = {name: _mean([fold.samples[name] for fold in folds]) for name in names}
    return Means(
        folds=len(folds),
        folds_with_both_classes=sum(bool(0 < fold.scored.y.mean() < 1) for fold in folds),
        models={name: _figures(values[name], samples[name]) for name in names},
        differences=_differences(values, samples, primary, reference),
    )


def _mean(folds: Sequence[Samples]) -> Samples:
    """Each metric's mean over the folds that define it, draw by draw."""
    return {
        metric: mean_of_defined([fold[metric] for fold in folds if metric in fold] or [np.array([np.nan])])
        for metric in METRICS
    }


def _notes(looks: Sequence[_Look], reference: str | None) -> list[str]:
    counted = [(look.scored.part, len(look.scored), int(look.scored.y.sum())) for look in looks]
    # The last part is what is quoted, so it is told apart: pages begin with it.
    notes = [one for one in (unranked(counted[-1:]), unranked(counted[:-1])) if one]
    if reference is None:
        notes.append("HAR logit is not among the models, so there are no differences against it")
    parts = {look.scored.part: look for look in looks}
    few = [f"{name} {look.blocks.count}" for name, look in parts.items() if look.blocks.count < FEW_BLOCKS]
    if few:
        notes.append(f"Few blocks of time to draw from, so intervals are rough and likely too narrow: {', '.join(few)}")
    for name, look in parts.items():
        unmet = [kind for kind, one in look.forecasts.items() if one.budget_threshold is None]
        if unmet:
            notes.append(
                f"{name}: no threshold of {', '.join(unmet)} stays within the alert budget: budget figures are left out"
            )
    return notes
