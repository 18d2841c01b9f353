"""Choosing parameters, features, calibration and decision threshold on validation folds inside one training part.

Everything here sees a training part only. Its validation folds are walk-forward and purged as the outer ones
are (splits.py), so what they say of a model is what will be asked of it: to hold in the time that follows.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from common.bundle import AblationRow
from training.judging import metrics
from training.models.base import Choice, Fitted, IntRange, Kind, LogRange, Params, Space, Value, sigmoid
from training.models.calibration import calibrate
from training.problem.rows import Rows
from training.problem.splits import SplitRules, walk_forward
from training.problem.ticks import NS_PER_S

DAY_NS = 86_400 * NS_PER_S
MIN_PART_ROWS = 100  # of a training part
MINIMUM_DAYS = 3  # of a training part, to learn from the time of day
DEFAULT_DECISION = 0.5
EARNS = 1e-3  # a group of features must lower the log loss by this share of it to stay
logging.getLogger("optuna").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Budget:
    trials: int = 10  # where the parameters cannot all be tried
    choices: int = 64  # of a single list, as HAR's windows are: tried one and all up to here, every k-th beyond
    seconds: float | None = None  # of one search; a run that hits it depends on the machine's speed
    rows: int = 40_000  # at most, of each fit of the search; more are thinned evenly


@dataclass(frozen=True, slots=True)
class Fold:
    """Row numbers inside the training part."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trial:
    params: Params
    log_loss: float  # of all validation rows
    pr_auc: float  # mean over the validation folds that hold both classes


@dataclass(frozen=True, slots=True)
class Chosen:
    """The decision threshold, trials and ablation of validation, and the model refitted on the training part."""

    fitted: Fitted
    decision_threshold: float
    trials: tuple[Trial, ...]
    ablation: tuple[AblationRow, ...]


def train(
    kind: Kind, rows: Rows, y: NDArray[np.int8], rules: SplitRules, budget: Budget, seed: int, *, ablate: bool
) -> Chosen:
    """rows, y: one training part with both classes."""
    folds = validation_folds(rows, y, rules)
    columns = columns_to_learn_from(kind, rows)
    ablation: tuple[AblationRow, ...] = ()
    params = kind.defaults(rows.schema)
    if ablate and folds:
        columns, ablation = keep_what_earns(kind, rows, y, folds, budget, seed, columns)
    trials: tuple[Trial, ...] = ()
    if folds:
        trials = search(kind, rows, y, folds, budget, seed, columns)
        params = min(trials, key=lambda trial: trial.log_loss).params
    fitted = kind.fit(rows, y, params, seed, columns)
    decision = DEFAULT_DECISION
    if folds:
        logits, labelled = validate(kind, rows, y, folds, params, seed, columns)
        logit, validated = np.concatenate(logits), np.concatenate(labelled)
        calibration = calibrate(logits, labelled)
        fitted = fitted.calibrated(calibration)
        if validated.min() != validated.max():
            probability = sigmoid(calibration.slope * logit + calibration.intercept)
            decision = metrics.best_f1_threshold(validated, probability)
    return Chosen(fitted, decision, trials, ablation)


def columns_to_learn_from(kind: Kind, rows: Rows) -> tuple[str, ...]:
    """All that the kind may look at; the time of day only where there are days enough to tell it from the date.

    In ten minutes of rows it is a slope, which a linear model follows to anywhere in the hours after them.
    """
    days = len(np.unique(rows.time_ns // DAY_NS))
    return tuple(
        name for name in kind.columns(rows.schema) if days >= MINIMUM_DAYS or not name.startswith("time_of_day")
    )


def validation_folds(rows: Rows, y: NDArray[np.int8], rules: SplitRules) -> list[Fold]:
    """Purged walk-forward folds inside the part; those that cannot be fitted on are left out."""
    splits = walk_forward(rows.time_ns, rules)
    folds = []
    for split in splits:
        few = len(split.train) < MIN_PART_ROWS or len(split.test) == 0
        if not few and y[split.train].min() != y[split.train].max():
            folds.append(Fold(split.train, split.test))
    tested = np.concatenate([y[fold.test] for fold in folds]) if folds else np.empty(0, np.int8)
    return folds if len(tested) and tested.min() != tested.max() else []


def thinned(index: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Every k-th of (rows,), so that at most `most` are left."""
    return index[:: max(1, -(-len(index) // most))]


def validate(
    kind: Kind,
    rows: Rows,
    y: NDArray[np.int8],
    folds: Sequence[Fold],
    params: Params,
    seed: int,
    columns: tuple[str, ...] | None = None,
    most: int | None = None,
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.int8]]]:
    """Out-of-fold logits and labels, by fold; a fold's model is fitted on at most `most` rows, asked half as many."""
    logits, labelled = [], []
    for fold in folds:
        index = fold.train if most is None else thinned(fold.train, most)
        if y[index].min() == y[index].max():  # thinning may lose the only spikes
            index = fold.train
        fitted = kind.fit(rows.take(index), y[index], params, seed, columns)
        tested = fold.test if most is None else thinned(fold.test, most // 2)
        logits.append(fitted.logits(rows.features[tested]))
        labelled.append(y[tested])
    return logits, labelled


def search(
    kind: Kind,
    rows: Rows,
    y: NDArray[np.int8],
    folds: Sequence[Fold],
    budget: Budget,
    seed: int,
    columns: tuple[str, ...] | None,
) -> tuple[Trial, ...]:
    """All parameters where they are a short list, else the defaults and what TPE proposes after them.

    Bergstra, Bardenet, Bengio and Kégl 2011, "Algorithms for hyper-parameter optimization" (NIPS 24).
    """
    deadline = None if budget.seconds is None else time.monotonic() + budget.seconds
    space = kind.space(rows.schema)

    def score(params: Params) -> Trial:
        logit, validated = validate(kind, rows, y, folds, params, seed, columns, budget.rows)
        return Trial(dict(params), *scores(logit, validated))

    if not space:
        return (score(kind.defaults(rows.schema)),)
    if len(space) == 1 and isinstance(only := next(iter(space.values())), Choice):
        (name,) = space
        stride = max(1, -(-len(only.values) // budget.choices))
        return _until(deadline, ({name: value} for value in only.values[::stride]), score)
    return _tpe(space, kind.defaults(rows.schema), score, budget, deadline, seed)


def _until(deadline: float | None, every: Iterable[Params], score: Callable[[Params], Trial]) -> tuple[Trial, ...]:
    trials: list[Trial] = []
    for params in every:
        trials.append(score(params))
        if deadline is not None and time.monotonic() > deadline:
            break
    return tuple(trials)


def _tpe(
    space: Space, first: Params, score: Callable[[Params], Trial], budget: Budget, deadline: float | None, seed: int
) -> tuple[Trial, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(5, budget.trials))
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial({name: _asked(one, first[name]) for name, one in space.items()})
    trials = []
    for _ in range(budget.trials):
        asked = study.ask()
        trial = score({**first, **{name: _suggest(asked, name, one) for name, one in space.items()}})
        trials.append(trial)
        study.tell(asked, trial.log_loss)
        if deadline is not None and time.monotonic() > deadline:
            break
    return tuple(trials)


def _asked(one: Choice | IntRange | LogRange, value: Value) -> Value:
    """A choice is known to the study by its place, since it takes no mixture of types."""
    return one.values.index(value) if isinstance(one, Choice) else value


def _suggest(trial: optuna.Trial, name: str, one: Choice | IntRange | LogRange) -> Value:
    match one:
        case Choice(values):
            return values[trial.suggest_categorical(name, range(len(values)))]
        case IntRange(low, high, step):
            return trial.suggest_int(name, low, high, step=step)
        case LogRange(low, high):
            return float(f"{trial.suggest_float(name, low, high, log=True):.6g}")


def scores(logits: Sequence[NDArray[np.float64]], labelled: Sequence[NDArray[np.int8]]) -> tuple[float, float]:
    """Log loss of the rows of all folds, and the mean PR-AUC of the folds that hold both classes."""
    logit, y = np.concatenate(logits), np.concatenate(labelled)
    loss = float(np.mean(np.logaddexp(0.0, logit) - y * logit))
    areas = [
        float(average_precision_score(known, one))
        for one, known in zip(logits, labelled, strict=True)
        if known.min() != known.max()
    ]
    return loss, float(np.mean(areas)) if areas else float("nan")


def groups(columns: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Features that say the same kind of thing, by their names; volatility over the windows is one of them."""
    found: dict[str, list[str]] = {}
    for name in columns:
        found.setdefault(_group(name), []).append(name)
    return {group: tuple(names) for group, names in found.items()}


_GROUPS = (
    ("time of day", ("time_of_day",)),
    ("volatility of volatility", ("volatility_of_volatility",)),
    ("jumps", ("bipower", "max_abs", "quarticity", "downside")),
    ("returns", ("return_",)),
    ("range", ("range_",)),
    ("slow volatility", ("volatility_1800s", "volatility_3600s", "ewma_volatility_3600s")),
    ("volatility", ("volatility", "ewma", "close_volatility")),
    ("spread", ("spread", "mean_spread")),
    ("imbalance", ("order_", "mean_imbalance", "book_imbalance", "buy_share")),
    ("activity", ("trade_intensity", "quote_intensity", "intensity", "mid_age", "volume")),
)


def _group(name: str) -> str:
    return next((group for group, starts in _GROUPS if name.startswith(starts)), name)


def keep_what_earns(
    kind: Kind,
    rows: Rows,
    y: NDArray[np.int8],
    folds: Sequence[Fold],
    budget: Budget,
    seed: int,
    every: tuple[str, ...],
) -> tuple[tuple[str, ...], tuple[AblationRow, ...]]:
    """Of `every`, columns that are left when groups are dropped one by one, the least useful first.

    A group goes when validation's log loss without it is not worse by EARNS of it. The table says for each
    group what was lost by leaving it out of all others.
    """
    params = kind.defaults(rows.schema)
    by_group = groups(every)

    def score(columns: tuple[str, ...]) -> tuple[float, float]:
        return scores(*validate(kind, rows, y, folds, params, seed, columns, budget.rows))

    whole = score(every)
    without = {group: score(_less(every, names)) for group, names in by_group.items() if len(names) < len(every)}
    kept, loss = every, whole[0]
    dropped = set()
    for group in sorted(without, key=lambda one: without[one][0]):
        fewer = _less(kept, by_group[group])
        if without[group][0] > whole[0] * (1 + EARNS) or not fewer:
            continue
        tried = without[group][0] if kept == every else score(fewer)[0]
        if tried <= loss * (1 + EARNS):
            kept, loss = fewer, min(loss, tried)
            dropped.add(group)
    table = [AblationRow("none", every, *_round(whole), kept=True)]
    table += [
        AblationRow(group, by_group[group], *_round(without[group]), kept=group not in dropped) for group in without
    ]
    return kept, tuple(table)


def _less(columns: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(one for one in columns if one not in names)


def _round(values: tuple[float, float]) -> tuple[float, float]:
    return float(f"{values[0]:.5g}"), float(f"{values[1]:.5g}")
