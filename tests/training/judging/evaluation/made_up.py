"""Scored parts with volatility that clusters, and forecasts of it that are better and worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.judging.scored_part import Scored
from training.problem.labels import labels

NS_PER_S = 1_000_000_000
START_NS = 1_764_565_200 * NS_PER_S


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def scored(
    part: str = "final",
    rows: int = 4000,
    seed: int = 0,
    start_s: int = 0,
    kinds: Sequence[str] = ("logistic", "zscore", "har"),
    threshold: float = 1.2,
) -> Scored:
    """A row a second; the later a kind stands in `kinds`, the noisier its view of what comes."""
    random = np.random.default_rng(seed)
    tide = 1.5 * np.sin(2 * np.pi * np.arange(rows) / 900 + seed)
    volatility = np.exp(0.5 * tide + 0.2 * random.normal(size=rows))
    probabilities = {
        kind: sigmoid(2 * (0.5 * tide - np.log(threshold)) + 0.4 * (1 + place) * random.normal(size=rows))
        for place, kind in enumerate(kinds)
    }
    return Scored(
        part=part,
        time_ns=START_NS + (start_s + np.arange(rows)) * NS_PER_S,
        product=np.zeros(rows, np.int64),
        y=labels(volatility, threshold),
        future_volatility=volatility,
        threshold=threshold,
        climatology=0.3,
        probabilities=probabilities,
        decision_thresholds=dict.fromkeys(kinds, 0.5),
    )


def with_spikes(count: int, rows: int = 700, part: str = "final", start_s: int = 0) -> Scored:
    """A part with so many spikes among its rows, spread over them."""
    given = scored(part, rows=rows, start_s=start_s)
    volatility = np.full(rows, 0.5)
    volatility[np.linspace(0, rows - 1, count).astype(np.int64)] = 2.0
    return replace(given, future_volatility=volatility, y=labels(volatility, given.threshold))
