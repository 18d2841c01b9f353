"""A simulated market whose log volatility is an autoregression, with features, outcomes and fits by least squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.judging.blocks import Blocks
from training.judging.scores import crps_log

from .normal import FLOOR_BPS, LogNormal

Floats = NDArray[np.float64]

STEP_NS = 5 * 10**9
STEPS = 12  # of an outcome: 60 s
WINDOWS = (6, 12, 60, 240)  # steps
NAMES = ("volatility_30s", "volatility_60s", "volatility_300s", "volatility_1200s", "state", "noise")
HAR = slice(1, 4)  # columns
BLOCK_NS = 1800 * 10**9
ROWS = 14_400  # 20 h


@dataclass(frozen=True, slots=True)
class Market:
    """Rows every 5 s. returns: (warm-up + rows + STEPS,) in bps; row i knows those before WINDOWS[-1] + i."""

    returns: Floats
    state: Floats  # an honest observation of the volatility now, (rows,)
    noise: Floats
    features: Floats  # logs, (rows, NAMES)
    outcome_bps: Floats
    time_ns: NDArray[np.int64]

    @property
    def blocks(self) -> Blocks:
        return Blocks.of(self.time_ns, BLOCK_NS)

    def recompute(self, row: int) -> Floats:
        """Features of a row from the returns up to its time only."""
        until = self.returns[: WINDOWS[-1] + row].copy()
        windows = [_volatility(until[-window:], window)[0] for window in WINDOWS]
        return np.array([*np.log(windows), self.state[row], self.noise[row]])


def market(seed: int) -> Market:
    random = np.random.default_rng(seed)
    count = WINDOWS[-1] + ROWS + STEPS
    level = np.zeros(count)
    shocks = random.normal(0, 0.6 * np.sqrt(1 - 0.995**2), count)
    for place in range(1, count):
        level[place] = 0.995 * level[place - 1] + shocks[place]
    returns = np.exp(level - 0.5) * random.normal(size=count)
    past = np.column_stack([np.log(_volatility(returns, window)[WINDOWS[-1] - window :][:ROWS]) for window in WINDOWS])
    state = level[WINDOWS[-1] - 1 :][:ROWS] + 0.3 * random.normal(size=ROWS)
    noise = random.normal(size=ROWS)
    outcome = np.maximum(_volatility(returns, STEPS)[WINDOWS[-1] :][:ROWS], FLOOR_BPS)
    features = np.column_stack([past, state, noise])
    return Market(returns, state, noise, features, outcome, np.arange(ROWS, dtype=np.int64) * STEP_NS)


def split(rows: int = ROWS) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and test rows, an embargo apart."""
    border = rows // 2
    return np.arange(border - WINDOWS[-1] - STEPS), np.arange(border, rows)


def fit(features: Floats, outcome_bps: Floats, train: NDArray[np.int64], test: NDArray[np.int64]) -> LogNormal:
    """Least squares on log volatility with normal residuals; forecasts of the test rows."""
    design = np.column_stack([np.ones(len(features)), features])
    known, log_outcome = design[train], np.log(outcome_bps[train])
    weights = np.linalg.solve(known.T @ known, known.T @ log_outcome)
    residual = log_outcome - known @ weights
    return LogNormal(design[test] @ weights, np.full(len(test), residual.std()))


def crps(features: Floats, outcome_bps: Floats, scored_bps: Floats | None = None) -> Floats:
    """Of the test rows, by a fit to the training rows."""
    train, test = split(len(features))
    scored = outcome_bps if scored_bps is None else scored_bps
    return crps_log(fit(features, outcome_bps, train, test), scored[test])


def of_test(blocks: Blocks, rows: int = ROWS) -> Blocks:
    return Blocks.of(blocks.of_row[split(rows)[1]], 1)


def late(values: Floats, rows: int) -> Floats:
    """Features of the row that comes later; the last rows keep their own."""
    return np.concatenate([values[rows:], values[-rows:]])


def _volatility(returns: Floats, window: int) -> Floats:
    """Per 60 s, over each window of steps, (returns - window + 1,)."""
    views = np.lib.stride_tricks.sliding_window_view(np.square(returns), window)
    return np.asarray(np.sqrt(views.sum(axis=1) * (STEPS / window)), dtype=np.float64)
