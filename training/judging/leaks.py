"""Checks that training data and forecasts know nothing of the future. No check has a limit that was tuned.

Each check compares the data with the data itself: with a permutation, with a shift in time, or with features computed
again from the ticks up to the row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from common.check import Check
from training.judging.blocks import DECISION_RESAMPLES, Blocks
from training.judging.comparison import Interval, expanded_interval, mean_difference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PLACEBOS = 3
SAMPLED_ROWS = 200
WINDOWS = (-1, 0, 1, 2, 3, 4)  # of foresight, in horizons after the row: the past window, its own, and later windows


def repeated_rows(train: Floats, test: Floats, moving: NDArray[np.bool_]) -> Check:
    """Refuses test rows whose bits are in the training part too, such as a test part copied to an earlier date.

    train, test: (rows, columns), features and outcome without columns of the clock, which a copy may change. moving:
    (test rows,). A market that stands still repeats itself honestly: see `moves`.
    """
    repeated = np.isin(_hashes(test[moving]), _hashes(train))
    count = int(np.count_nonzero(repeated))
    text = f"{count:,} of {len(repeated):,} moving test rows are in the training part, bit for bit"
    return Check("repeated rows", count == 0, text)


def moves(features: Floats, outcome_bps: Floats, floor_bps: float) -> NDArray[np.bool_]:
    """Rows (n,) that differ from the row before and whose outcome is above the floor."""
    differs = np.ones(len(features), np.bool_)
    differs[1:] = (features[1:] != features[:-1]).any(axis=1)
    return np.asarray(differs & (outcome_bps > floor_bps))


def time_order(time_ns: Ints, product: Ints, event_times_ns: Mapping[int, Ints]) -> Check:
    """Rows follow their product's event times: strictly ascending, each at the time of an event of the data.

    time_ns, product: (n,). event_times_ns: of each product, ascending.
    """
    for number, events in event_times_ns.items():
        times = time_ns[product == number]
        backward = np.flatnonzero(np.diff(times) <= 0)
        if len(backward):
            return Check(
                "time order", False, f"{len(backward):,} rows of product {number} are not later than the row before"
            )
        places = np.minimum(np.searchsorted(events, times), len(events) - 1)
        without_event = int(np.count_nonzero(events[places] != times)) if len(events) else len(times)
        if without_event:
            return Check(
                "time order", False, f"{without_event:,} rows of product {number} are at times without an event"
            )
    unknown = np.setdiff1d(product, list(event_times_ns))
    if len(unknown):
        return Check("time order", False, f"product {unknown[0]} has rows and no events")
    return Check("time order", True, f"{len(time_ns):,} rows follow the event times of the data")


def sampled_rows(rows: int, seed: int) -> Ints:
    """Rows to compute again: the first, the last and others at random, ascending."""
    chosen = np.random.default_rng(seed).choice(rows, min(rows, SAMPLED_ROWS), replace=False)
    return np.unique(np.concatenate([[0, rows - 1], chosen])).astype(np.int64)


def look_ahead(names: Sequence[str], features: Floats, rows: Ints, recompute: Callable[[int], Floats]) -> Check:
    """Computes features of sampled rows again, from the ticks up to the row's time only, and compares the bits.

    features: (n, columns). recompute: row -> its features (columns,), by the feature engine.
    """
    for row in rows.tolist():
        again = np.asarray(recompute(row), dtype=np.float64)
        differs = again.view(np.uint64) != np.ascontiguousarray(features[row]).view(np.uint64)
        if differs.any():
            column = int(np.flatnonzero(differs)[0])
            return Check(
                "look-ahead",
                False,
                f"row {row}: {names[column]} is {float(features[row, column])!r}, but {float(again[column])!r} from "
                "the ticks up to its time",
            )
    return Check("look-ahead", True, f"{len(rows):,} rows have the same bits from the ticks up to their time")


def neighbours(outcome_bps: Floats, series: Ints, blocks: Blocks, seed: int) -> Check:
    """Refuses rows shuffled over time: volatility clusters, so neighbours are more similar than distant rows.

    outcome_bps, series: (n,); the rows of a series, such as a product of a recording, are in time order. The distance
    of logs to the next row of the series is compared with the distance to the row half of the series away.
    """
    near, distant = np.empty((2, len(outcome_bps)))
    for number in np.unique(series):
        rows = np.flatnonzero(series == number)
        log_outcome = np.log(outcome_bps[rows])
        near[rows] = np.abs(log_outcome - np.roll(log_outcome, -1))
        distant[rows] = np.abs(log_outcome - np.roll(log_outcome, -(len(rows) // 2)))
    difference = mean_difference(near, distant, blocks, seed)
    text = f"log outcomes of neighbouring rows differ by {difference} more than those of distant rows"
    return Check("neighbours", difference.lies_below(0), text)


def later_rows(time_ns: Ints, series: Ints, shift_ns: int, tolerance_ns: int) -> Ints:
    """The row of the same series nearest to time + shift, (n,); -1 without a row within tolerance."""
    later = np.full(len(time_ns), -1, np.int64)
    for number in np.unique(series):
        rows = np.flatnonzero(series == number)
        times = time_ns[rows]
        wanted = times + shift_ns
        after = np.minimum(np.searchsorted(times, wanted), len(times) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(np.abs(times[before] - wanted) <= np.abs(times[after] - wanted), before, after)
        near = np.abs(times[nearest] - wanted) <= tolerance_ns
        later[rows[near]] = rows[nearest[near]]
    return later


def shifted_outcomes(time_ns: Ints, series: Ints, outcome_bps: Floats, shift_ns: int, tolerance_ns: int) -> Floats:
    """The outcome of the row at time + shift, as in later_rows, (n,); NaN without such a row."""
    later = later_rows(time_ns, series, shift_ns, tolerance_ns)
    return np.where(later >= 0, outcome_bps[later], np.nan)


def foresight(names: Sequence[str], features: Floats, outcomes: Sequence[Floats], blocks: Blocks, seed: int) -> Check:
    """Refuses features that know a later window better than the windows before and after it.

    An honest feature knows the past window best and each later window less well; a slow feature may drift either way.
    Only a feature that has seen a later window is most correlated with that window (rank correlation). outcomes: those
    of the window before the row, of the row's own, and of the windows after it, each (n,); rows with NaN are left out.
    """
    known = np.isfinite(np.stack(outcomes)).all(axis=0) & np.isfinite(features).all(axis=1)
    if not known.any():
        return Check("foresight", False, "no row has outcomes of all windows before, during and after its own")
    few = Blocks(blocks.of_row[known], blocks.count)
    windows, draws = [_ranks(outcome[known]) for outcome in outcomes], few.draws(DECISION_RESAMPLES, seed)
    comparisons = len(names) * (len(outcomes) - 2)
    refused = [
        f"{name}, window {place}, by {excess[0]} and {excess[1]}"
        for name, column in zip(names, features[known].T, strict=True)
        if column.min() < column.max()
        for place, excess in _peaks(_ranks(column), windows, few, draws, comparisons)
    ]
    if refused:
        return Check(
            "foresight",
            False,
            "features are more correlated with a window after their row than with the windows before and after that: "
            + "; ".join(refused),
        )
    return Check("foresight", True, f"none of {len(names)} features knows a later window better than an earlier")


def hindsight(har: Floats, knowing: Floats, blocks: Blocks, seed: int) -> Check:
    """Refuses a baseline that is as good as if it had seen the outcomes.

    har, knowing: CRPS of the same rows, (n,), of HAR and of HAR fitted to features read one horizon later, whose
    windows hold the outcome. On honest data, those are better by far. If rows are shuffled or late, they are not.
    """
    difference = mean_difference(knowing, har, blocks, seed)
    text = f"CRPS of HAR that has seen the outcome is {difference} against that of HAR"
    return Check("hindsight", difference.lies_below(0), text)


def placebo(
    fit_and_score: Callable[[Floats], tuple[Floats, Floats]],
    outcome_bps: Floats,
    blocks: tuple[Blocks, Blocks],
    seed: int,
) -> Check:
    """Refuses a way of fitting that beats climatology on outcomes that the features cannot know.

    fit_and_score: outcomes of all rows (n,) -> CRPS of the test rows, of the model fitted anew and of climatology.
    blocks: of all rows and of the test rows. Outcomes of whole blocks change places PLACEBOS times.
    """
    everything, test = blocks
    scores = [fit_and_score(permuted_outcomes(outcome_bps, everything, seed + number)) for number in range(PLACEBOS)]
    mine, climatology = (np.mean(arrays, axis=0) for arrays in zip(*scores, strict=True))
    difference = mean_difference(mine, climatology, test, seed)
    text = f"CRPS on outcomes of other blocks is {difference} against climatology"
    if difference.lies_below(0):
        return Check("placebo", False, f"beats climatology on outcomes that nothing can forecast: {text}")
    return Check("placebo", True, text)


def permuted_outcomes(outcome_bps: Floats, blocks: Blocks, seed: int) -> Floats:
    """Outcomes (n,) with the blocks in another order, begun at another row. Rows are in time order."""
    random = np.random.default_rng(seed)
    starts = np.flatnonzero(np.diff(blocks.of_row, prepend=-1))
    parts = np.split(outcome_bps, starts[1:])
    mixed = np.concatenate([parts[place] for place in random.permutation(len(parts))])
    return np.roll(mixed, int(random.integers(len(mixed))))


def _hashes(rows: Floats) -> NDArray[np.uint64]:
    """A hash of the bits of each row, (n,); 0.0 and -0.0 are equal. SplitMix64 (Steele, Lea, Flood 2014) mixes."""
    mixed = np.zeros(len(rows), np.uint64)
    for column in rows.T:
        mixed += (np.ascontiguousarray(column) + 0.0).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def _ranks(values: Floats) -> Floats:
    """Ranks with mean 0 and variance 1, so that the mean of a product is the rank correlation."""
    ranks = rankdata(values)
    return np.asarray((ranks - ranks.mean()) / ranks.std(), dtype=np.float64)


def _peaks(
    ranks: Floats, windows: Sequence[Floats], blocks: Blocks, draws: Floats, comparisons: int
) -> list[tuple[int, tuple[Interval, Interval]]]:
    """Windows whose correlation with a feature is shown to be above both neighbours', with both differences."""
    sums = blocks.sums(np.column_stack([ranks * window for window in windows]))
    rows = blocks.sums(np.ones((len(ranks), 1)))
    drawn, with_rows = draws @ rows, int(np.count_nonzero(rows))
    points = sums.sum(axis=0) / rows.sum()
    samples = np.divide(draws @ sums, drawn, out=np.full((len(draws), len(windows)), np.nan), where=drawn > 0)
    sizes, samples = np.abs(points), np.where(points < 0, -samples, samples)

    def excess(place: int, other: int) -> Interval:
        difference = samples[:, place] - samples[:, other]
        return expanded_interval(float(sizes[place] - sizes[other]), difference, with_rows, comparisons)

    pairs = [(place, (excess(place, place - 1), excess(place, place + 1))) for place in range(1, len(windows) - 1)]
    return [(place, both) for place, both in pairs if all(difference.lies_above(0) for difference in both)]
