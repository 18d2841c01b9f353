"""What full/2 adds to full/1: the trailing hour, on a fixed grid of mids.

Point k of the grid is the time k * 5 s since the epoch. Its mid is that of the last tick at or before it, so returns
from point to point do not depend on the tick rate and hardly on the bounce between bid and ask (L. Zhang, P. Mykland,
Y. Aït-Sahalia, "A tale of two time scales", 2005, section 1: sampling sparsely). A point is complete with the first
tick after it. Between two points the features stay as they are.

Realized volatility is given per minute: the square root of 12 times the mean squared return of the window. Less than
an hour is known after a gap, so each window is shrunk: the hour towards PRIOR, which counts as a minute of returns,
and the shorter windows towards the hour.

The reference forecast of the logarithm of the next minute's realized volatility never changes. It is a weighted mean of
the logarithms of the last minute's (weight 0.3), five minutes' (0.3) and thirty minutes' (0.4) volatility. Its errors,
which are known a minute later, measure how far and in which direction the market departs from its past.

Bare functions for numba; `full` calls them.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

from numba import njit

from pipeline.features import kernels

STEP_NS = 5_000_000_000
MINUTE, FIVE_MINUTES, HALF_HOUR, HOUR = 12, 60, 360, 720  # in points
HALF_MINUTE = 6
# No feature depends on an older return: an hour of errors, each of a forecast made a minute before from an hour.
REACH = 2 * HOUR + MINUTE
REACH_NS = (REACH + 1) * STEP_NS  # the last point is up to a step old

FLOOR = 5e-6  # log return: 0.05 bps a minute, below which a market counts as standing still
PRIOR_VARIANCE = (3e-4) ** 2  # per minute: 3 bps
PRIOR_POINTS = float(MINUTE)
SHRINK_POINTS = 1.0  # points of the hour's mean in each shorter window
LARGEST_ERROR = 3.0  # of the logarithm: a factor of 20
ERROR_POINTS = float(FIVE_MINUTES)  # weight of the priors of the errors
PRIOR_ABS_ERROR = 0.5
PRIOR_STILL = 0.05
WEIGHTS = (0.3, 0.3, 0.4)

# Columns of `hour`, the values of a product: its features, in the order of the schema, and the mid at the last point.
HALF_MINUTE_VOLATILITY, MINUTE_VOLATILITY, FIVE_MINUTES_VOLATILITY, HALF_HOUR_VOLATILITY, HOUR_VOLATILITY = range(5)
LARGEST_RETURN, MEAN_RETURN, ERROR_MEAN, ERROR_SIZE, STILL_SHARE, KNOWN_S = range(5, 11)
FEATURES = 11
MID = FEATURES
VALUES = FEATURES + 1

# Rows of `grid` (4, HOUR): the value of point k is at k % HOUR.
SQUARES, ERRORS, STILL, REFERENCES = range(4)
ROWS = 4

log_return = kernels.log_return


@njit
def last_point(time_ns):
    """The last point before a time."""
    return (time_ns - 1) // STEP_NS


@njit
def begin(hour, grid):
    """Sets the trailing hour at the start of a history: only the priors are known."""
    hour[MID] = 0.0  # no point yet
    _describe(hour, grid, 0, 0)


@njit
def advance(hour, grid, done, known, due, mid):
    """Completes the points after `done` up to `due` at the mid `mid`; gives the new value of `known`.

    known: number of returns since the history began, at most REACH.
    """
    first = done + 1
    if due - first >= REACH:  # the points before have left every window
        first = due - REACH + 1
        hour[MID] = mid
        known = REACH
    for point in range(first, due + 1):
        if hour[MID] > 0.0:
            move = log_return(mid, hour[MID])
            known = min(known + 1, REACH)
            _enter(hour, grid, point, known, move * move)
        hour[MID] = mid
    return known


@njit
def _enter(hour, grid, point, known, square):
    at = point % HOUR
    grid[SQUARES, at] = square
    before = (point - MINUTE) % HOUR
    reference = grid[REFERENCES, before]
    grid[REFERENCES, at] = _describe(hour, grid, at, min(known, HOUR))
    if known <= MINUTE:
        return
    minute = _sum(grid[SQUARES], at, 0, MINUTE)
    outcome = math.log(max(math.sqrt(minute), FLOOR))
    grid[ERRORS, at] = min(max(outcome - reference, -LARGEST_ERROR), LARGEST_ERROR)
    grid[STILL, at] = 1.0 if minute < (2.0 * FLOOR) ** 2 else 0.0
    _describe_errors(hour, grid, at, min(known - MINUTE, HOUR))


@njit
def _sum(ring, at, youngest, oldest):
    """Of the values of ages youngest … oldest - 1, in points; in the order of age, wherever the ring begins."""
    total = 0.0
    for age in range(youngest, oldest):
        place = at - age
        total += ring[place if place >= 0 else place + HOUR]
    return total


@njit
def _describe(hour, grid, at, known):
    """Sets the features of the returns, `known` of which are in the hour; returns the reference forecast."""
    squares = grid[SQUARES]
    half_minute = _sum(squares, at, 0, min(known, HALF_MINUTE))
    minute = half_minute + _sum(squares, at, HALF_MINUTE, min(known, MINUTE))
    five_minutes = minute + _sum(squares, at, MINUTE, min(known, FIVE_MINUTES))
    half_hour = five_minutes + _sum(squares, at, FIVE_MINUTES, min(known, HALF_HOUR))
    whole = half_hour + _sum(squares, at, HALF_HOUR, known)
    mean = (whole + PRIOR_POINTS * PRIOR_VARIANCE / MINUTE) / (known + PRIOR_POINTS)
    hour[HALF_MINUTE_VOLATILITY] = _volatility(half_minute, known, HALF_MINUTE, mean)
    hour[MINUTE_VOLATILITY] = _volatility(minute, known, MINUTE, mean)
    hour[FIVE_MINUTES_VOLATILITY] = _volatility(five_minutes, known, FIVE_MINUTES, mean)
    hour[HALF_HOUR_VOLATILITY] = _volatility(half_hour, known, HALF_HOUR, mean)
    hour[HOUR_VOLATILITY] = math.sqrt(MINUTE * mean)
    largest = total = 0.0
    for age in range(min(known, MINUTE)):
        place = at - age
        size = math.sqrt(squares[place if place >= 0 else place + HOUR])
        largest = max(largest, size)
        total += size
    hour[LARGEST_RETURN] = largest
    hour[MEAN_RETURN] = total / MINUTE
    if known == 0:
        _describe_errors(hour, grid, at, 0)
    hour[KNOWN_S] = known * (STEP_NS / 1e9)
    return (
        WEIGHTS[0] * math.log(max(hour[MINUTE_VOLATILITY], FLOOR))
        + WEIGHTS[1] * math.log(max(hour[FIVE_MINUTES_VOLATILITY], FLOOR))
        + WEIGHTS[2] * math.log(max(hour[HALF_HOUR_VOLATILITY], FLOOR))
    )


@njit
def _volatility(total, known, points, mean):
    """Per minute, of a window whose squares sum to `total`; points that are not known yet count as the hour's mean."""
    missing = max(points - known, 0)
    return math.sqrt(MINUTE * (total + (missing + SHRINK_POINTS) * mean) / (points + SHRINK_POINTS))


@njit
def _describe_errors(hour, grid, at, known):
    """Sets the features of the reference forecast's errors, `known` of which are in the hour."""
    errors, still = grid[ERRORS], grid[STILL]
    total = size = minutes = 0.0
    for age in range(known):
        place = at - age
        place = place if place >= 0 else place + HOUR
        total += errors[place]
        size += abs(errors[place])
        minutes += still[place]
    weight = known + ERROR_POINTS
    hour[ERROR_MEAN] = total / weight
    hour[ERROR_SIZE] = (size + ERROR_POINTS * PRIOR_ABS_ERROR) / weight
    hour[STILL_SHARE] = (minutes + ERROR_POINTS * PRIOR_STILL) / weight
