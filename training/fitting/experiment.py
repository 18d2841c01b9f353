"""One training run, from rows to models with their honest numbers. No file, no clock.

The last fifth of the rows is set apart first and looked at once, at the end. Before it lie walk-forward
folds. Within each training part, of a fold or of the final part, everything is chosen anew on validation
folds inside it (search.py): parameters, features, calibration, decision threshold. So no fold's score
knows of a choice that its own rows took part in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from common.bundle import AblationRow
from common.errors import InputError
from common.paired_difference import PairedDifference
from common.schema import FeatureSchema
from training.fitting import search
from training.fitting.pool import InProcess, Pool
from training.fitting.search import MIN_PART_ROWS, Budget
from training.judging import metrics
from training.judging.evaluation.blocks import DECISION_RESAMPLES, Blocks, block_s, interval
from training.judging.evaluation.figures import areas
from training.judging.paired_comparison import what_ships
from training.judging.scored_part import FINAL, Scored
from training.models import BASELINES, HAR, KINDS, LEARNERS, Fitted
from training.problem import leakage
from training.problem.labels import labels, spike_threshold
from training.problem.rows import Rows
from training.problem.splits import Split, SplitRules, final_split, walk_forward
from training.problem.ticks import NS_PER_S

Progress = Callable[[str], None]
AUTO = "auto"
PATIENCE = {"xgboost": 0, HAR: 1, "logistic": 2}  # what takes longest begins first


@dataclass(frozen=True, slots=True)
class Settings:
    model_type: str = "logistic"  # or AUTO: the best of all kinds on the folds, where it is shown to beat HAR
    schema: FeatureSchema | None = None  # that the model is to be served on; None: the rows' own
    horizon_s: int = 60
    window_s: int = 300  # the longest of the rows' schema
    sample_period_s: int = 1
    quantile: float = 0.90
    final_share: float = 0.20
    folds: int = 5
    validation_folds: int = 3  # inside each training part
    # 0: τ is the quantile over the whole training part; else over its last rows (docs/decisions/0004).
    threshold_rows: int = 0
    ablate: bool = True
    budget: Budget = field(default_factory=Budget)
    seed: int = 0

    @property
    def block_s(self) -> float:
        """Of the bootstrap."""
        return block_s(self.window_s + self.horizon_s)

    def split_rules(self, folds: int | None = None) -> SplitRules:
        return SplitRules(
            horizon_ns=self.horizon_s * NS_PER_S,
            window_ns=self.window_s * NS_PER_S,
            final_share=self.final_share,
            folds=folds or self.folds,
        )

    def kinds(self, schema: FeatureSchema) -> tuple[str, ...]:
        """The baselines that rows of this schema allow, and what is to be compared with them."""
        asked = tuple(KINDS) if self.model_type == AUTO else tuple(dict.fromkeys((*BASELINES, self.model_type)))
        return tuple(kind for kind in asked if _has_columns(kind, schema))


@dataclass(frozen=True, slots=True)
class Part:
    """A training part and its test part, labelled with the training part's own τ."""

    name: str
    split: Split
    threshold: float
    climatology: float  # rate of spikes in the training rows that τ was taken from
    train: Rows
    train_y: NDArray[np.int8]
    test: Rows
    test_y: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Candidate(search.Chosen):
    """A kind of model, trained on all rows before the final part, and its scores."""

    fold_metrics: tuple[dict[str, float], ...]
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Experiment:
    settings: Settings
    schema: FeatureSchema  # of the model
    kind: str  # the model's
    part: Part  # the final one
    folds: tuple[Scored, ...]
    final: Scored
    candidates: dict[str, Candidate]  # the model first
    # PR-AUC minus that of HAR over the folds, by kind (training/judging/paired_comparison.py).
    leads: dict[str, PairedDifference] = field(default_factory=dict)

    @property
    def model(self) -> Candidate:
        return self.candidates[self.kind]

    @property
    def fitted(self) -> dict[str, Fitted]:
        return {name: one.fitted for name, one in self.candidates.items()}

    @property
    def ablation(self) -> tuple[AblationRow, ...]:
        return self.model.ablation


@dataclass(frozen=True, slots=True)
class _Job:
    part: str
    kind: str
    train: slice | NDArray[np.int64]
    test: slice | NDArray[np.int64]
    threshold: float
    settings: Settings


@dataclass(frozen=True, slots=True)
class _Outcome:
    chosen: search.Chosen
    probabilities: NDArray[np.float64]  # of the test rows


def run(rows: Rows, settings: Settings, progress: Progress = lambda step: None, pool: Pool | None = None) -> Experiment:
    """Raises InputError where the data cannot carry the run, TrainingError where a score betrays a leak."""
    schema = settings.schema or rows.schema
    _require_columns(rows.schema, schema, settings)
    _require_rows(rows, settings)
    final = _part(FINAL, rows, final_split(rows.time_ns, settings.split_rules()), settings)
    if final.test_y.min() == final.test_y.max():
        raise _single_class("the final part tests", final.test_y, final.threshold)
    parts = (*_folds(rows, final, settings), final)
    kinds = settings.kinds(rows.schema)
    jobs = [_job(part, kind, settings) for part in parts for kind in kinds]
    # Later parts train on more rows: longest first, so that no worker is left alone with one at the end.
    order = sorted(range(len(jobs)), key=lambda at: (PATIENCE.get(jobs[at].kind, 9), -at))

    def done(finished: int, every: int) -> None:
        progress(
            f"{finished} of {every} models chosen, fitted and calibrated ({len(parts)} parts × {len(kinds)} kinds)"
        )

    done(0, len(jobs))
    results = (pool or InProcess()).run(_train, rows, [jobs[at] for at in order], done)
    outcomes = {(jobs[at].part, jobs[at].kind): result for at, result in zip(order, results, strict=True)}
    scored = tuple(_scored(part, kinds, outcomes) for part in parts)
    candidates = {kind: _candidate(kind, parts, scored, outcomes) for kind in kinds}
    servable = [kind for kind, one in candidates.items() if set(one.fitted.columns) <= set(schema.names)]
    asked = None if settings.model_type == AUTO else settings.model_type
    chosen, leads = what_ships(scored[:-1], servable, asked, settings.block_s, settings.seed)
    model = candidates[chosen]
    model = replace(model, fitted=model.fitted.on(schema))
    candidates = {chosen: model} | {kind: one for kind, one in candidates.items() if kind != chosen}
    _check_scores(candidates, final)
    progress("intervals by block bootstrap")
    _add_intervals(candidates, scored[-1], chosen, settings)
    return Experiment(settings, schema, chosen, final, scored[:-1], scored[-1], candidates, leads)


def on_schema(rows: Rows, schema: FeatureSchema) -> Rows:
    """The rows with the features of `schema` only; raises InputError where they lack one."""
    if schema.hash == rows.schema.hash:
        return rows
    return replace(rows, schema=schema, features=rows.columns(schema.names))


def _job(part: Part, kind: str, settings: Settings) -> _Job:
    return _Job(part.name, kind, _run_of(part.split.train), _run_of(part.split.test), part.threshold, settings)


def _run_of(index: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Split parts are runs of rows; as slices they cost nothing to send and to take."""
    start, stop = int(index[0]), int(index[-1]) + 1
    return slice(start, stop) if stop - start == len(index) else index


def _train(rows: Rows, job: _Job) -> _Outcome:
    """One kind on one part: all that needs the rows, so that only models and probabilities travel back."""
    settings = job.settings
    train = _cut(rows, job.train)
    y = labels(train.future_volatility, job.threshold)
    if job.kind not in BASELINES and settings.schema is not None:
        train = on_schema(train, settings.schema)
    chosen = search.train(
        KINDS[job.kind],
        train,
        y,
        settings.split_rules(settings.validation_folds),
        settings.budget,
        settings.seed,
        ablate=settings.ablate and job.kind in LEARNERS,
    )
    test = on_schema(_cut(rows, job.test), chosen.fitted.schema)
    return _Outcome(chosen, chosen.fitted.probabilities(test.features))


def _cut(rows: Rows, index: slice | NDArray[np.int64]) -> Rows:
    return Rows(
        schema=rows.schema,
        time_ns=rows.time_ns[index],
        product=rows.product[index],
        features=rows.features[index],
        future_volatility=rows.future_volatility[index],
    )


def _scored(part: Part, kinds: tuple[str, ...], outcomes: dict[tuple[str, str], _Outcome]) -> Scored:
    return Scored(
        part=part.name,
        time_ns=part.test.time_ns,
        product=part.test.product,
        y=part.test_y,
        future_volatility=part.test.future_volatility,
        threshold=part.threshold,
        climatology=part.climatology,
        probabilities={kind: outcomes[part.name, kind].probabilities for kind in kinds},
        decision_thresholds={kind: outcomes[part.name, kind].chosen.decision_threshold for kind in kinds},
    )


def _candidate(
    kind: str, parts: tuple[Part, ...], scored: tuple[Scored, ...], outcomes: dict[tuple[str, str], _Outcome]
) -> Candidate:
    values = [
        metrics.evaluate(one.y, one.probabilities[kind], one.decision_thresholds[kind], one.climatology)
        for one in scored
    ]
    chosen = outcomes[parts[-1].name, kind].chosen
    return Candidate(
        fitted=chosen.fitted,
        decision_threshold=chosen.decision_threshold,
        trials=chosen.trials,
        ablation=chosen.ablation,
        fold_metrics=tuple(values[:-1]),
        metrics=values[-1],
    )


def _check_scores(candidates: dict[str, Candidate], final: Part) -> None:
    # Where most rows are spikes, a high PR-AUC is no wonder.
    if final.test_y.mean() < 0.5:
        for name, one in candidates.items():
            leakage.check_score(name, one.metrics["pr_auc"])


def _folds(rows: Rows, final: Part, settings: Settings) -> tuple[Part, ...]:
    """Walk-forward folds over all that comes before the final part and its embargo."""
    development = _cut(rows, slice(0, int(final.split.train[-1]) + 1))
    splits = walk_forward(development.time_ns, settings.split_rules())
    folds = tuple(_part(f"fold {number}", development, split, settings) for number, split in enumerate(splits, 1))
    # A quiet fold may hold no spike; the mean PR-AUC needs some somewhere.
    y = np.concatenate([fold.test_y for fold in folds])
    if y.min() == y.max():
        raise _single_class("the folds test", y, max(fold.threshold for fold in folds))
    return folds


def _require_columns(has: FeatureSchema, wanted: FeatureSchema, settings: Settings) -> None:
    missing = [name for name in wanted.names if name not in has.names]
    if missing:
        raise InputError(f"schema {wanted.name}: the data has none of its features {', '.join(missing)}")
    if settings.model_type != AUTO:
        KINDS[settings.model_type].columns(wanted)


def _has_columns(kind: str, schema: FeatureSchema) -> bool:
    try:
        return bool(KINDS[kind].columns(schema))
    except InputError:
        return False


def _require_rows(rows: Rows, settings: Settings) -> None:
    needed = MIN_PART_ROWS * (settings.folds + 1)
    if len(rows) < needed:
        raise InputError(
            f"too little data: {len(rows)} usable rows, at least {needed} are needed (a row needs "
            f"{settings.window_s} s of unbroken ticks before it and {settings.horizon_s} s after it)"
        )
    if not np.isfinite(rows.features).all():
        column = int(np.flatnonzero(~np.isfinite(rows.features).all(axis=0))[0])
        raise InputError(f"feature {rows.schema.names[column]} holds values that are no finite number")


def _part(name: str, rows: Rows, split: Split, settings: Settings) -> Part:
    leakage.check_split(rows.time_ns, split, settings.split_rules())
    said = f"the {name} part" if name == FINAL else name
    if len(split.train) < MIN_PART_ROWS or len(split.test) == 0:
        raise InputError(
            f"too little data: {said} has {len(split.train)} rows to train on and {len(split.test)} to test on"
        )
    train, test = rows.take(split.train), rows.take(split.test)
    recent = slice(-settings.threshold_rows, None)
    threshold = spike_threshold(train.future_volatility[recent], settings.quantile)
    train_y, test_y = labels(train.future_volatility, threshold), labels(test.future_volatility, threshold)
    if train_y.min() == train_y.max():
        raise _single_class(f"{said} trains", train_y, threshold)
    return Part(name, split, threshold, float(np.mean(train_y[recent])), train, train_y, test, test_y)


def _single_class(where: str, y: NDArray[np.int8], threshold: float) -> InputError:
    if threshold == 0:
        return InputError(
            f"{where} on {len(y)} rows after most of which the mid never moved: the spike threshold is 0, and every "
            "row a spike; livelier data is needed"
        )
    return InputError(
        f"single-class labels: {where} on {len(y)} rows that are all {'' if y[0] else 'no '}spikes (future volatility "
        f"at least {threshold:.3g}); longer or livelier data is needed"
    )


def _add_intervals(candidates: dict[str, Candidate], final: Scored, chosen: str, settings: Settings) -> None:
    """Adds PR-AUC intervals, and differences of the chosen kind to each other kind; leaves undefined intervals out."""
    blocks = Blocks.of(final.time_ns, int(settings.block_s * NS_PER_S))
    draws = blocks.draws(DECISION_RESAMPLES, settings.seed)
    samples = {name: areas(final.y, final.probabilities[name], blocks.of_row, draws)[0] for name in candidates}
    for name, candidate in candidates.items():
        candidate.metrics.update(_ends("pr_auc", samples[name]))
    values = candidates[chosen].metrics
    for name, candidate in candidates.items():
        if name != chosen:
            values[f"pr_auc_minus_{name}"] = values["pr_auc"] - candidate.metrics["pr_auc"]
            values.update(_ends(f"pr_auc_minus_{name}", samples[chosen] - samples[name]))


def _ends(metric: str, samples: NDArray[np.float64]) -> dict[str, float]:
    ends = interval(samples)
    return {} if ends is None else {f"{metric}_low": ends[0], f"{metric}_high": ends[1]}
