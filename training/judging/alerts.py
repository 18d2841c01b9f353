"""Alerts for a spike size at every alert level: spikes caught in advance, false alarms, lead times and costs.

training/judging/episodes.py defines episode, alarm, false alarm and lead time. Counts are kept by block of
time, so that a bootstrap can choose the alert level again in each draw. The interval then includes the luck of that
choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from training.judging.blocks import DECISION_RESAMPLES, Blocks
from training.judging.comparison import Interval, expanded_interval
from training.judging.episodes import Line, alarms

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ALWAYS, NEVER = 0.0, float("inf")  # alert levels
LEVELS = 200  # between always and never
LEAD_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
COST_RATIOS: Floats = np.geomspace(0.005, 1.0, 24)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Counts at each alert level by block of time, (levels, blocks); levels ascend from ALWAYS to NEVER."""

    levels: Floats  # (levels,)
    alarms: Floats
    false_alarms: Floats
    caught: Floats  # episodes caught in advance
    episodes: Floats  # (blocks,)
    hours: Floats  # (blocks,), observed


@dataclass(frozen=True, slots=True)
class Operation:
    """Alerts at a level. Shares are NaN without episodes. lead_s: at LEAD_QUANTILES, of episodes that were caught."""

    level: float
    episodes: int
    caught_share: float  # in advance
    alarms_per_hour: float
    false_alarms_per_hour: float
    lead_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Cost per hour, in values of a caught spike, at each ratio of the cost of an alarm to that value; all (ratios,).

    The cost of a level is ratio * alarms - episodes caught in advance, so that no alert at all costs 0. perfect: an
    alarm for each episode and none else, if that pays.
    """

    ratios: Floats
    levels: Floats
    cost: Floats
    always: Floats
    never: Floats
    perfect: Floats


def alert_levels(probability: Floats, count: int = LEVELS) -> Floats:
    """Levels to look at: probabilities at ranks in equal ratios from the highest down, between ALWAYS and NEVER."""
    ranked = np.sort(probability)[::-1]
    ranks = np.unique(np.geomspace(1, len(ranked), count).astype(np.int64)) - 1
    return np.unique(np.concatenate([[ALWAYS], ranked[ranks], [NEVER]]))


def sweep(line: Line, event: Bools, probability: Floats, levels: Floats, blocks: Blocks) -> Sweep:
    """event, probability: (n,), in the rows' own order, as are the rows of line and blocks. levels: ascending."""
    of_place = blocks.of_row[line.order]
    spikes = event.astype(np.int8)
    counts = np.zeros((3, len(levels), blocks.count))
    for place, level in enumerate(levels):
        at_level = alarms(line, spikes, probability >= level)
        in_advance = at_level.episodes.first[at_level.lead_s > 0]
        for row, places in enumerate((at_level.raised, at_level.raised[at_level.false], in_advance)):
            counts[row, place] = np.bincount(of_place[places], minlength=blocks.count)
    episodes = np.bincount(of_place[line.runs(event[line.order]).first], minlength=blocks.count)
    hours = np.bincount(of_place, line.seconds / 3600, blocks.count).astype(np.float64)
    return Sweep(levels, counts[0], counts[1], counts[2], episodes.astype(np.float64), hours)


def operation(line: Line, event: Bools, probability: Floats, level: float) -> Operation:
    """Alerts at a level; arrays as for sweep."""
    at_level = alarms(line, event.astype(np.int8), probability >= level)
    episodes, lead_s = len(at_level.episodes), at_level.lead_s[~np.isnan(at_level.lead_s)]
    return Operation(
        level=level,
        episodes=episodes,
        caught_share=float(np.count_nonzero(lead_s > 0)) / episodes if episodes else float("nan"),
        alarms_per_hour=len(at_level.raised) / line.hours,
        false_alarms_per_hour=float(np.count_nonzero(at_level.false)) / line.hours,
        lead_s=tuple(np.quantile(lead_s, LEAD_QUANTILES).tolist()) if len(lead_s) else (),
    )


def caught_share(given: Sweep, false_per_hour: float, blocks: Blocks, seed: int) -> Interval:
    """The share of episodes caught in advance at the budget level, which each draw chooses anew."""
    point, samples = _caught(given, false_per_hour, blocks, seed)
    return expanded_interval(point, samples, _with_episodes(given))


def caught_difference(mine: Sweep, theirs: Sweep, false_per_hour: float, blocks: Blocks, seed: int) -> Interval:
    """mine - theirs of caught_share, on the same draws. Both sweeps are of the same rows and events."""
    (my_point, my_samples), (their_point, their_samples) = (
        _caught(given, false_per_hour, blocks, seed) for given in (mine, theirs)
    )
    return expanded_interval(my_point - their_point, my_samples - their_samples, _with_episodes(mine))


def cost_per_hour(given: Sweep, ratio: float) -> Floats:
    """The cost of each level, (levels,), as CostCurve defines it."""
    cost: Floats = (ratio * given.alarms.sum(axis=1) - given.caught.sum(axis=1)) / given.hours.sum()
    return cost


def cheapest_level(given: Sweep, ratio: float) -> float:
    """The level of the lowest cost; of several, the highest, which raises the fewest alarms."""
    cost = cost_per_hour(given, ratio)
    return float(given.levels[len(cost) - 1 - int(np.argmin(cost[::-1]))])


def cost_curve(validation: Sweep, scored: Sweep, ratios: Floats = COST_RATIOS) -> CostCurve:
    """Chooses the cheapest level on validation rows and gives its cost on scored rows.

    The choice costs nothing extra only if it is made on other rows than it is judged on. Raises InputError if the
    sweeps have other levels.
    """
    if not np.array_equal(validation.levels, scored.levels):
        raise InputError("cost curve: expected sweeps over the same alert levels")
    costs = np.array([cost_per_hour(scored, ratio) for ratio in ratios])
    levels = np.array([cheapest_level(validation, ratio) for ratio in ratios])
    per_hour = scored.episodes.sum() / scored.hours.sum()
    return CostCurve(
        ratios=ratios,
        levels=levels,
        cost=costs[np.arange(len(ratios)), np.searchsorted(scored.levels, levels)],
        always=costs[:, 0],
        never=costs[:, -1],
        perfect=np.minimum(ratios - 1, 0) * per_hour,
    )


def _caught(given: Sweep, false_per_hour: float, blocks: Blocks, seed: int) -> tuple[float, Floats]:
    """The share at the budget level: of the rows, and of each draw (draws,); NaN without episodes."""
    shares = []
    for draws in (blocks.once(), blocks.draws(DECISION_RESAMPLES, seed)):
        chosen = _within(given, draws, false_per_hour)
        caught = np.take_along_axis(draws @ given.caught.T, chosen[:, None], axis=1)[:, 0]
        episodes = draws @ given.episodes
        shares.append(np.divide(caught, episodes, out=np.full(len(draws), np.nan), where=episodes > 0))
    return float(shares[0][0]), shares[1]


def _within(given: Sweep, draws: Floats, false_per_hour: float) -> NDArray[np.int64]:
    """The place of the budget level in each draw, (draws,). NEVER raises no alarm, so a level always exists."""
    allowed = false_per_hour * (draws @ given.hours)
    within = draws @ given.false_alarms.T <= allowed[:, None]
    of_all_higher = np.logical_and.accumulate(within[:, ::-1], axis=1)
    return np.asarray(len(given.levels) - np.count_nonzero(of_all_higher, axis=1), dtype=np.int64)


def _with_episodes(given: Sweep) -> int:
    return int(np.count_nonzero(given.episodes))
