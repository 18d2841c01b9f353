"""Paired differences of scores with intervals from whole blocks of time that are drawn again and again.

Rows overlap and volatility clusters, so rows are no independent evidence; blocks of time nearly are (H. Künsch, "The
jackknife and the bootstrap for general stationary observations", Annals of Statistics 17, 1989). Both forecasts see the
same draws. Rows of all products at a time are in the same block, since markets move together.

Percentiles of a bootstrap are too narrow if there are few blocks. They are taken further out by Student's t
distribution (T. Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69, 2015: the
expanded percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from training.judging.blocks import DECISION_RESAMPLES, DEFINED_SHARE, Blocks, mean_of_defined
from training.judging.figures import areas

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

CONFIDENCE = 0.95
# With fewer blocks, equal forecasts differ in the same direction in all blocks with a probability above 2.5 % (sign
# test: 2 ** -5 = 3.1 %), so that no interval can show a difference.
MIN_BLOCKS = 6
NS_PER_DAY = 86_400 * 10**9
REGIMES = ("calm", "usual", "lively")


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % interval. low, high: None if there are too few blocks or too few draws define the value."""

    point: float
    low: float | None
    high: float | None
    blocks: int  # that hold rows, or events if the value is defined by events
    draws: int = DECISION_RESAMPLES

    def lies_above(self, limit: float) -> bool:
        return self.low is not None and self.low > limit

    def lies_below(self, limit: float) -> bool:
        return self.high is not None and self.high < limit

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.point:+.4f} (no interval: {self.blocks} blocks of time, {MIN_BLOCKS} are needed)"
        return f"{self.point:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True, slots=True)
class RowGroups:
    """The group of each row, (n,), for example its day."""

    by: str
    names: tuple[str, ...]
    of_row: Ints


@dataclass(frozen=True, slots=True)
class GroupDifference:
    """The difference within a group, with the means of both forecasts."""

    name: str
    rows: int
    mine: float
    theirs: float
    difference: Interval


@dataclass(frozen=True, slots=True)
class PrAucSamples:
    """PR-AUC of the rows of a part, and of each draw of the part's blocks: NaN if a draw has no event."""

    point: float
    samples: Floats  # (draws,)
    blocks: int  # that hold events


def expanded_interval(point: float, samples: Floats, blocks: int, comparisons: int = 1) -> Interval:
    """Of values of a bootstrap (draws,), NaN if a draw does not define the value.

    comparisons: number of intervals of which all have to hold (Bonferroni).
    """
    defined = samples[~np.isnan(samples)]
    if blocks < MIN_BLOCKS or len(defined) < DEFINED_SHARE * len(samples):
        return Interval(point, None, None, blocks)
    outside = (1 - CONFIDENCE) / 2 / comparisons
    expanded = float(norm.cdf(t.ppf(outside, blocks - 1) * np.sqrt(blocks / (blocks - 1))))
    low, high = np.quantile(defined, [expanded, 1 - expanded])
    return Interval(point, float(low), float(high), blocks)


def mean_interval(values: Floats, blocks: Blocks, seed: int, comparisons: int = 1) -> Interval:
    """The mean of values (n,), such as differences of scores or coverage."""
    return _means(values, None, 1, blocks, seed, comparisons)[0]


def mean_difference(mine: Floats, theirs: Floats, blocks: Blocks, seed: int) -> Interval:
    """The mean of mine - theirs, both (n,): scores of the same rows."""
    return mean_interval(mine - theirs, blocks, seed)


def differences_by(groups: RowGroups, mine: Floats, theirs: Floats, blocks: Blocks, seed: int) -> list[GroupDifference]:
    """The mean difference within each group that holds rows."""
    count = len(groups.names)
    rows = np.bincount(groups.of_row, minlength=count)
    means = [
        np.divide(np.bincount(groups.of_row, scores, count), rows, out=np.full(count, np.nan), where=rows > 0)
        for scores in (mine, theirs)
    ]
    intervals = _means(mine - theirs, groups.of_row, count, blocks, seed)
    return [
        GroupDifference(name, int(rows[place]), float(means[0][place]), float(means[1][place]), intervals[place])
        for place, name in enumerate(groups.names)
        if rows[place]
    ]


def pr_auc_samples(event: Bools, probability: Floats, blocks: Blocks, seed: int) -> PrAucSamples:
    """PR-AUC (average precision) of a part. event, probability: (n,), at least one event."""
    classes = event.astype(np.int8)
    point, samples = (
        areas(classes, probability, blocks.of_row, draws)[0]
        for draws in (blocks.once(), blocks.draws(DECISION_RESAMPLES, seed))
    )
    return PrAucSamples(float(point[0]), samples, len(np.unique(blocks.of_row[event])))


def pr_auc_difference(mine: Sequence[PrAucSamples], theirs: Sequence[PrAucSamples]) -> Interval:
    """The mean over parts, such as folds, of the difference in PR-AUC.

    Both are of the same parts, drawn with the same seed in each part. If a draw has no event in a part, the mean is
    over the remaining parts.
    """
    pairs = list(zip(mine, theirs, strict=True))
    point = float(np.mean([my.point - their.point for my, their in pairs]))
    samples = mean_of_defined([my.samples - their.samples for my, their in pairs])
    return expanded_interval(point, samples, sum(my.blocks for my in mine))


def sums_by_group(blocks: Blocks, values: Floats, group: Ints | None, groups: int) -> Floats:
    """Values (n,) added up by block and group, (blocks, groups). group: of each row, (n,); None: a single group."""
    cell = blocks.of_row * groups + (0 if group is None else group)
    totals = np.bincount(cell, weights=values, minlength=blocks.count * groups).astype(np.float64)
    return totals.reshape(blocks.count, groups)


def groupings(time_ns: Ints, product: Sequence[str], trailing_bps: Floats) -> list[RowGroups]:
    """By day and hour of the day (UTC), product, and regime: tercile of the trailing volatility. All (n,)."""
    products, of_product = np.unique(np.asarray(product), return_inverse=True)
    edges = np.quantile(trailing_bps, [1 / 3, 2 / 3])
    return [
        _by_day(time_ns),
        RowGroups("hour", tuple(f"{hour:02d}" for hour in range(24)), time_ns % NS_PER_DAY // (3600 * 10**9)),
        RowGroups("product", tuple(products.tolist()), of_product.astype(np.int64).reshape(-1)),
        RowGroups("regime", REGIMES, np.searchsorted(edges, trailing_bps, side="right").astype(np.int64)),
    ]


def _by_day(time_ns: Ints) -> RowGroups:
    days, of_row = np.unique(time_ns // NS_PER_DAY, return_inverse=True)
    names = tuple(f"{datetime.fromtimestamp(day * 86_400, UTC):%Y-%m-%d}" for day in days.tolist())
    return RowGroups("day", names, of_row.astype(np.int64).reshape(-1))


def _means(
    values: Floats, group: Ints | None, groups: int, blocks: Blocks, seed: int, comparisons: int = 1
) -> list[Interval]:
    """The mean within each group; rows and sums vary together with the draws."""
    sums, rows = (sums_by_group(blocks, each, group, groups) for each in (values, np.ones(len(values))))
    draws = blocks.draws(DECISION_RESAMPLES, seed)
    drawn = draws @ rows
    samples = np.divide(draws @ sums, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
    total = rows.sum(axis=0)
    points = np.divide(sums.sum(axis=0), total, out=np.full(groups, np.nan), where=total > 0)
    with_rows = np.count_nonzero(rows, axis=0)
    return [
        expanded_interval(float(points[place]), samples[:, place], int(with_rows[place]), comparisons)
        for place in range(groups)
    ]
