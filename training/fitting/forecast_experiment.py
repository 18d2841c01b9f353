"""A training run, from rows to fitted kinds and their forecasts of later rows. No file, no clock.

The last fifth of every recording is set apart first. It is forecast once, at the end, by models that are fitted on the
rest. Walk-forward folds lie before it: each tests the next block of every recording and trains on the blocks before it.
Nothing is tuned in a run, so a fold's score knows of no choice that its rows took part in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from pipeline.features.engine import reach_ns
from training.fitting.pool import InProcess, Pool
from training.forecasting.bundle import survivals
from training.forecasting.form import FittedForecast
from training.forecasting.kinds import HAR, KINDS, kind_named, usable_kinds
from training.forecasting.parts import FINAL, ForecastPart
from training.problem.forecast_rows import ForecastRows
from training.problem.splits import Split, SplitRules, final_split, walk_forward
from training.problem.target import DEFAULT_TARGET, NS_PER_S, Target

Progress = Callable[[str], None]
Rows = NDArray[np.int64]  # places of rows

AUTO = "auto"
BASELINES = ("climatology", "zscore", "ewma", HAR)
MIN_PART_ROWS = 200
# The fits that take longest run first, so that no worker ends long after the others.
LONGEST_FITS = ("xgboost", "logistic", "ridge")


@dataclass(frozen=True, slots=True)
class Settings:
    model_type: str = AUTO  # or the name of a kind
    final_share: float = 0.2
    folds: int = 5
    spike_bps: float = 0.0  # default spike size; 0: a quantile of the training rows
    alert_level: float = 0.5
    seed: int = 0
    target: Target = DEFAULT_TARGET

    def split_rules(self, rows: ForecastRows) -> SplitRules:
        return SplitRules(self.target.reach_ns, reach_ns(rows.schema), self.final_share, self.folds)

    def block_s(self, rows: ForecastRows) -> float:
        """Length of the bootstrap's blocks: what the windows and the outcome of a row span together."""
        return self.split_rules(rows).embargo_ns / NS_PER_S

    def kinds(self, rows: ForecastRows) -> tuple[str, ...]:
        """Names of the kinds to fit. Raises InputError if the asked kind needs a feature that the schema lacks."""
        if self.model_type != AUTO:
            kind_named(self.model_type).design(rows.schema)
        wanted = {kind.name for kind in KINDS} if self.model_type == AUTO else {*BASELINES, self.model_type}
        return tuple(kind.name for kind in usable_kinds(rows.schema) if kind.name in wanted)


@dataclass(frozen=True, slots=True)
class Experiment:
    """folds, final: in time order. train: the rows before the final part. fitted: kind -> fitted on them."""

    settings: Settings
    train: ForecastRows
    folds: tuple[ForecastPart, ...]
    final: ForecastPart
    fitted: dict[str, FittedForecast]


@dataclass(frozen=True, slots=True)
class _Job:
    part: str
    kind: str
    train: Rows
    seed: int


def run(
    rows: ForecastRows, settings: Settings, progress: Progress = lambda step: None, pool: Pool | None = None
) -> Experiment:
    """Raises InputError if there are too few rows, or a kind cannot be fitted on the schema."""
    kinds = settings.kinds(rows)
    parts = dict(_parts(rows, settings))
    jobs = [_Job(name, kind, train, settings.seed) for name, (train, _) in parts.items() for kind in kinds]
    order = sorted(range(len(jobs)), key=lambda place: _expected_time(jobs[place]))

    def done(finished: int, every: int) -> None:
        progress(f"{finished} of {every} models fitted ({len(parts)} parts × {len(kinds)} kinds)")

    done(0, len(jobs))
    results = (pool or InProcess()).run(_fit, rows, [jobs[place] for place in order], done)
    fitted = {(jobs[place].part, jobs[place].kind): result for place, result in zip(order, results, strict=True)}
    of_parts = [
        _part(name, rows, train, test, {kind: fitted[name, kind] for kind in kinds})
        for name, (train, test) in parts.items()
    ]
    train, _ = parts[FINAL]
    return Experiment(
        settings, rows.take(train), tuple(of_parts[:-1]), of_parts[-1], {kind: fitted[FINAL, kind] for kind in kinds}
    )


def _fit(rows: ForecastRows, job: _Job) -> FittedForecast:
    return kind_named(job.kind).fit(rows.take(job.train), seed=job.seed)


def _expected_time(job: _Job) -> tuple[int, int]:
    longest = LONGEST_FITS.index(job.kind) if job.kind in LONGEST_FITS else len(LONGEST_FITS)
    return longest, -len(job.train)


def _part(name: str, rows: ForecastRows, train: Rows, test: Rows, fitted: dict[str, FittedForecast]) -> ForecastPart:
    before, after = rows.take(train), rows.take(test)
    sizes, multiples = survivals(before)
    return ForecastPart(
        name=name,
        rows=after,
        forecasts={kind: each.forecasts(after.features) for kind, each in fitted.items()},
        sizes=sizes,
        multiples=multiples,
        trained_until_ns={
            int(number): int(before.time_ns[before.recording == number].max()) for number in np.unique(before.recording)
        },
    )


def _parts(rows: ForecastRows, settings: Settings) -> Iterator[tuple[str, tuple[Rows, Rows]]]:
    """Names of the parts with places of their training and test rows: the folds, then FINAL."""
    rules = settings.split_rules(rows)
    folds: list[list[Split]] = [[] for _ in range(settings.folds)]
    finals: list[Split] = []
    for number in range(len(rows.recordings)):
        places = np.flatnonzero(rows.recording == number)
        final = final_split(rows.time_ns[places], rules)
        finals.append(_at(places, final))
        development = places[: int(final.train[-1]) + 1] if len(final.train) else places[:0]
        if len(development) > 1:
            for fold, split in zip(folds, walk_forward(rows.time_ns[development], rules), strict=True):
                fold.append(_at(development, split))
    for name, splits in [*((f"fold {number}", fold) for number, fold in enumerate(folds, 1)), (FINAL, finals)]:
        train = np.concatenate([split.train for split in splits] or [np.zeros(0, np.int64)])
        test = np.concatenate([split.test for split in splits] or [np.zeros(0, np.int64)])
        if len(train) < MIN_PART_ROWS or not len(test):
            hours = rules.window_ns / NS_PER_S / 3600
            raise InputError(
                f"too little data: {name} has {len(train):,} rows to train on and {len(test):,} to test on; "
                f"{MIN_PART_ROWS} and 1 are needed. A row of {rows.schema.name} needs {hours:.2g} h of unbroken ticks"
            )
        yield name, (train, test)


def _at(places: Rows, split: Split) -> Split:
    """The split of some rows as a split of all rows."""
    return Split(places[split.train], places[split.test], split.purged, split.embargoed)
