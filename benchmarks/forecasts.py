"""All kinds of forecast on the four recordings: walk-forward on the quotes, each recording left out of training, and
each recording alone as training data.

    python -m benchmarks.forecasts [--schema full/2] [--out benchmarks/results/forecasts.json]

The last fifth of every recording is left alone, in training as in testing: it is for the final evaluation of a model,
and no choice is made with it. Scores are of log volatility (training/judging).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression

from common.schema import FULL_2, SCHEMAS, FeatureSchema
from pipeline.features.engine import reach_ns
from training.forecasting import designs
from training.forecasting.form import FittedForecast
from training.forecasting.kinds import HAR, SIZE_LEVELS, ForecastKind, usable_kinds
from training.judging.blocks import Blocks
from training.judging.comparison import (
    Interval,
    PrAucSamples,
    mean_difference,
    pr_auc_difference,
    pr_auc_samples,
)
from training.judging.events import event_scores, log_loss, sizes_bps
from training.judging.scores import covered, crps_log, pit_bounds
from training.problem.forecast_rows import ForecastRows, pooled
from training.problem.recordings import known_recordings, read_recording
from training.problem.splits import SplitRules, final_split, walk_forward
from training.problem.target import DEFAULT_TARGET, Floats

FOLDS = 5
FINAL_SHARE = 0.2
BLOCK_NS = 3_660 * 10**9  # of the bootstrap: an hour and an outcome
RECORDINGS = 4
LOGIT = "har_logit"  # a logistic regression fitted for each size, as the models before this one
OUT = Path("benchmarks/results/forecasts.json")


class KindScores(msgspec.Struct, frozen=True):
    kind: str
    crps_log: float
    coverage_80: float
    coverage_95: float
    crps_minus_har: Interval  # of paired draws; negative: better


class ScoresAtSize(msgspec.Struct, frozen=True):
    """At a quantile of the training rows. log_loss, pr_auc: kind -> mean over the folds, with LOGIT."""

    level: float
    log_loss: dict[str, float]
    pr_auc: dict[str, float]
    log_loss_minus_logit: dict[str, Interval]  # negative: better
    pr_auc_minus_logit: dict[str, Interval]  # positive: better


class LeftOut(msgspec.Struct, frozen=True):
    recording: str
    rows: int
    kinds: tuple[KindScores, ...]


class TrainedOnOne(msgspec.Struct, frozen=True):
    trained_on: str
    tested_on: str
    kinds: tuple[KindScores, ...]


class Study(msgspec.Struct, frozen=True):
    date: str
    command: str
    cores: int
    schema: str
    sample_period_s: int
    seconds: float  # of fitting and scoring
    reading_seconds: float
    rows: dict[str, int]  # recording -> rows before its last fifth
    folds: tuple[KindScores, ...]
    fold_coverage_80: dict[str, tuple[float, ...]]  # kind -> each fold
    sizes: tuple[ScoresAtSize, ...]
    left_out: tuple[LeftOut, ...]
    trained_on_one: tuple[TrainedOnOne, ...]


@dataclass(frozen=True, slots=True)
class PartScores:
    """Scores of the rows of a test part, each (n,)."""

    crps: Floats
    covered_80: Floats
    covered_95: Floats


def scored(fitted: FittedForecast, rows: ForecastRows) -> PartScores:
    forecasts, outcome = fitted.forecasts(rows.features), rows.outcome_bps
    low, high = pit_bounds(forecasts, outcome, fitted.floor_bps)
    return PartScores(crps_log(forecasts, outcome), covered(low, high, 0.8), covered(low, high, 0.95))


def summary(kind: str, mine: PartScores, har: PartScores, time_ns: Any) -> KindScores:
    blocks = Blocks.of(time_ns, BLOCK_NS)
    difference = mean_difference(mine.crps, har.crps, blocks, seed=0)
    means = [float(np.mean(each)) for each in (mine.crps, mine.covered_80, mine.covered_95)]
    return KindScores(kind, means[0], means[1], means[2], difference)


def development(rows: ForecastRows) -> ForecastRows:
    """The rows of a recording before its last fifth whose outcomes end before it, too."""
    begin = final_split(rows.time_ns, _rules(rows.schema)).test[0]
    return rows.take(rows.time_ns + DEFAULT_TARGET.reach_ns <= rows.time_ns[begin])


def left_out(recordings: Sequence[ForecastRows], place: int, kinds: Sequence[ForecastKind]) -> LeftOut:
    """Trains on all other recordings."""
    test = recordings[place]
    train = pooled([rows for number, rows in enumerate(recordings) if number != place])
    results = {kind.name: scored(kind.fit(train), test) for kind in kinds}
    summaries = tuple(summary(name, each, results[HAR], test.time_ns) for name, each in results.items())
    return LeftOut(test.recordings[0], len(test), summaries)


def trained_on_one(recordings: Sequence[ForecastRows], place: int, kinds: Sequence[ForecastKind]) -> list[TrainedOnOne]:
    """Trains on a single recording and tests on each of the other recordings."""
    train = recordings[place]
    fitted = {kind.name: kind.fit(train) for kind in kinds}
    pairs = []
    for test in (rows for number, rows in enumerate(recordings) if number != place):
        results = {name: scored(each, test) for name, each in fitted.items()}
        summaries = tuple(summary(name, each, results[HAR], test.time_ns) for name, each in results.items())
        pairs.append(TrainedOnOne(train.recordings[0], test.recordings[0], summaries))
    return pairs


@dataclass(frozen=True, slots=True)
class FoldScores:
    """A fold of the walk-forward: scores by kind; log losses (n,) and PR-AUC by (size level, kind or LOGIT)."""

    time_ns: Any
    kinds: dict[str, PartScores]
    log_loss: dict[tuple[float, str], Floats]
    pr_auc: dict[tuple[float, str], PrAucSamples]


def fold_scores(rows: ForecastRows, train: Any, test: Any, kinds: Sequence[ForecastKind]) -> FoldScores:
    before, after = rows.take(train), rows.take(test)
    fitted = {kind.name: kind.fit(before) for kind in kinds}
    losses: dict[tuple[float, str], Floats] = {}
    areas: dict[tuple[float, str], PrAucSamples] = {}
    blocks = Blocks.of(after.time_ns, BLOCK_NS)
    seed = int(test[0])  # of the bootstrap: folds are drawn independently
    har = designs.har(rows.schema)
    train_units, test_units = har.unit_values(before.features), har.unit_values(after.features)
    for level, size in zip(SIZE_LEVELS, sizes_bps(before.outcome_bps).tolist(), strict=True):
        event = after.outcome_bps >= size
        for name, each in fitted.items():
            at_size = event_scores(each.forecasts(after.features), after.outcome_bps, size)
            losses[level, name] = at_size.log_loss
            areas[level, name] = pr_auc_samples(event, at_size.probability, blocks, seed)
        logit = LogisticRegression().fit(train_units, before.outcome_bps >= size)
        probability = logit.predict_proba(test_units)[:, 1]
        losses[level, LOGIT] = log_loss(event, probability)
        areas[level, LOGIT] = pr_auc_samples(event, probability, blocks, seed)
    return FoldScores(after.time_ns, {name: scored(each, after) for name, each in fitted.items()}, losses, areas)


def study(recordings: Sequence[ForecastRows], workers: int, sample_period_s: int, reading_seconds: float) -> Study:
    """recordings: the first is the walk-forward's; of every recording the rows before its last fifth."""
    began = time.perf_counter()
    schema = recordings[0].schema
    kinds = usable_kinds(schema)
    splits = walk_forward(recordings[0].time_ns, _rules(schema))
    with ProcessPoolExecutor(workers) as pool:
        # The largest fold first, so that the workers end together.
        jobs = [pool.submit(fold_scores, recordings[0], each.train, each.test, kinds) for each in reversed(splits)]
        others = [pool.submit(left_out, recordings, place, kinds) for place in range(len(recordings))]
        alone = [pool.submit(trained_on_one, recordings, place, kinds) for place in range(len(recordings))]
        folds = [job.result() for job in reversed(jobs)]
        out = tuple(job.result() for job in others)
        pairs = tuple(pair for job in alone for pair in job.result())
    time_ns = np.concatenate([fold.time_ns for fold in folds])
    joined = {kind.name: _joined([fold.kinds[kind.name] for fold in folds]) for kind in kinds}
    return Study(
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        command=f"python -m benchmarks.forecasts --schema {schema.name} --period {sample_period_s}",
        cores=os.cpu_count() or 1,
        schema=schema.name,
        sample_period_s=sample_period_s,
        seconds=round(time.perf_counter() - began, 1),
        reading_seconds=reading_seconds,
        rows={rows.recordings[0]: len(rows) for rows in recordings},
        folds=tuple(summary(name, each, joined[HAR], time_ns) for name, each in joined.items()),
        fold_coverage_80={
            kind.name: tuple(round(float(np.mean(fold.kinds[kind.name].covered_80)), 4) for fold in folds)
            for kind in kinds
        },
        sizes=tuple(at_level(level, folds, [*joined, LOGIT], time_ns) for level in SIZE_LEVELS),
        left_out=out,
        trained_on_one=pairs,
    )


def tables(result: Study) -> list[Table]:
    """For people."""
    columns = ("recording", "kind", "CRPS", "80 %", "95 %", "CRPS - HAR's")
    scores = Table(*columns, title=f"{result.schema}: five folds of the first recording, then each recording left out")
    parts = [("walk-forward", result.folds), *((each.recording, each.kinds) for each in result.left_out)]
    for name, kinds in parts:
        for each in kinds:
            numbers = (f"{each.crps_log:.4f}", f"{each.coverage_80:.3f}", f"{each.coverage_95:.3f}")
            scores.add_row(name, each.kind, *numbers, str(each.crps_minus_har))
        scores.add_section()
    alone = Table(*("trained on", *columns), title="Trained on a single recording")
    for pair in result.trained_on_one:
        for each in pair.kinds:
            numbers = (f"{each.crps_log:.4f}", f"{each.coverage_80:.3f}", f"{each.coverage_95:.3f}")
            alone.add_row(pair.trained_on, pair.tested_on, each.kind, *numbers, str(each.crps_minus_har))
        alone.add_section()
    of_sizes = ("size", "kind", "log loss", "log loss - HAR logit's", "PR-AUC", "PR-AUC - HAR logit's")
    sizes = Table(*of_sizes, title="Folds, by spike size")
    for at in result.sizes:
        for name, loss in at.log_loss.items():
            differences = [str(each.get(name, "")) for each in (at.log_loss_minus_logit, at.pr_auc_minus_logit)]
            size = f"q{100 * at.level:g}"
            sizes.add_row(size, name, f"{loss:.4f}", differences[0], f"{at.pr_auc[name]:.4f}", differences[1])
        sizes.add_section()
    return [scores, alone, sizes]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecasts", description=__doc__)
    parser.add_argument("--period", type=int, default=5, help="seconds between rows of a product (default 5)")
    parser.add_argument("--schema", choices=sorted(SCHEMAS), default=FULL_2.name)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    known = known_recordings()
    if len(known) < RECORDINGS:
        parser.exit(1, "no recordings: ../shared/data or VOLCAST_DATA_DIR\n")
    began = time.perf_counter()
    read = partial(read_recording, schema=SCHEMAS[options.schema], sample_period_s=options.period)
    with ProcessPoolExecutor(options.workers) as pool:
        recordings = [development(rows) for rows in pool.map(read, known)]
    reading = round(time.perf_counter() - began, 1)
    result = study(recordings, options.workers, options.period, reading)
    console = Console()
    for table in tables(result):
        console.print(table)
    console.print(f"read in {reading:.0f} s, fitted and scored in {result.seconds:.0f} s, {options.workers} workers")
    options.out.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")


def _rules(schema: FeatureSchema) -> SplitRules:
    return SplitRules(DEFAULT_TARGET.reach_ns, reach_ns(schema), final_share=FINAL_SHARE, folds=FOLDS)


def _joined(parts: Sequence[PartScores]) -> PartScores:
    columns = ("crps", "covered_80", "covered_95")
    return PartScores(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def at_level(level: float, folds: Sequence[FoldScores], names: Sequence[str], time_ns: Any) -> ScoresAtSize:
    """Scores of kinds and LOGIT at a size level, over all folds. time_ns: (n,), of the rows of all folds."""
    losses = {name: np.concatenate([fold.log_loss[level, name] for fold in folds]) for name in names}
    areas = {name: [fold.pr_auc[level, name] for fold in folds] for name in names}
    blocks = Blocks.of(time_ns, BLOCK_NS)
    kinds = [name for name in names if name != LOGIT]
    return ScoresAtSize(
        level,
        {name: float(np.mean(each)) for name, each in losses.items()},
        {name: float(np.mean([fold.point for fold in each])) for name, each in areas.items()},
        {name: mean_difference(losses[name], losses[LOGIT], blocks, seed=0) for name in kinds},
        {name: pr_auc_difference(areas[name], areas[LOGIT]) for name in kinds},
    )


if __name__ == "__main__":
    main()
