"""Whether a forecast model may be promoted: skill, coverage, calibration, parity, latency and the champion.

Each check takes arrays and returns a Check; none reads a file. training/judging/leaks.py has the checks against
knowledge of the future. docs/decisions/0031 gives the reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.check import Check
from training.judging.blocks import Blocks
from training.judging.comparison import Interval, mean_difference, mean_interval
from training.judging.events import log_loss

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a share may be from what the model claims.

    A share is refused if its interval lies further away than `shown`: more than chance. It is refused beyond `most`
    even if few blocks make the interval wide.
    """

    shown: float
    most: float


@dataclass(frozen=True, slots=True)
class GateLimits:
    coverage_80: Tolerance = Tolerance(0.02, 0.12)
    coverage_95: Tolerance = Tolerance(0.02, 0.07)
    calibration: Tolerance = Tolerance(0.02, 0.10)
    champion_margin: float = 0.02  # largest loss against the champion, as a share of the champion's CRPS
    parity: float = 1e-6
    max_latency_us: float = 10.0
    seed: int = 0  # of the bootstrap


@dataclass(frozen=True, slots=True)
class AtSize:
    """Events and probabilities of the same rows at a spike size, (n,); base_rate is that of the training rows."""

    size_bps: float
    event: Bools
    probability: Floats
    base_rate: float


def skill(mine: Floats, har: Floats, blocks: Blocks, is_har: bool, limits: GateLimits) -> Check:
    """CRPS of the rows of all purged folds, (n,), of the candidate and of HAR on log volatility."""
    if not _finite(mine, har):
        return Check("skill", False, "the CRPS of some rows is not a finite number")
    if is_har:
        return Check("skill", True, f"HAR, mean CRPS {mine.mean():.4f}: it ships if no other kind is shown to beat it")
    difference = mean_difference(mine, har, blocks, limits.seed)
    text = (
        f"mean CRPS {mine.mean():.4f} against HAR's {har.mean():.4f}: {difference} on {len(mine):,} rows of the folds"
    )
    if not difference.lies_below(0):
        return Check("skill", False, f"not shown to beat HAR, so HAR ships: {text}")
    return Check("skill", True, text)


def coverage(covered_80: Floats, covered_95: Floats, blocks: Blocks, limits: GateLimits) -> Check:
    """Whether the central intervals cover as many outcomes as they claim. Arrays: scores.covered of each row, (n,)."""
    texts, passed = [], True
    for claimed, values, tolerance in (
        (0.8, covered_80, limits.coverage_80),
        (0.95, covered_95, limits.coverage_95),
    ):
        if not _finite(values):
            return Check("coverage", False, "the coverage of some rows is not a finite number")
        excess = mean_interval(values - claimed, blocks, limits.seed)
        passed &= _within(excess, tolerance)
        texts.append(f"{claimed:.0%} intervals cover {values.mean():.1%}{_spread(excess, claimed)}")
    text = "; ".join(texts)
    return Check("coverage", passed, text if passed else f"not as claimed: {text}")


def calibration(sizes: Sequence[AtSize], blocks: Blocks, limits: GateLimits) -> Check:
    """Whether events are as frequent as the probabilities claim, at each size, and better than the base rate."""
    refused = []
    for size in sizes:
        if not _finite(size.probability):
            return Check("calibration", False, f"the probability at {size.size_bps:g} bps is not finite for some rows")
        excess = mean_interval(size.event - size.probability, blocks, limits.seed)
        if not _within(excess, limits.calibration):
            refused.append(f"at {size.size_bps:.3g} bps the mean probability is off by {excess}")
        climatology = log_loss(size.event, np.full(len(size.event), size.base_rate))
        worse = mean_difference(log_loss(size.event, size.probability), climatology, blocks, limits.seed)
        if worse.lies_above(0):
            refused.append(f"at {size.size_bps:.3g} bps the log loss is worse than that of the base rate: {worse}")
    if refused:
        return Check("calibration", False, "; ".join(refused))
    worst = max((float(abs(np.mean(size.event - size.probability))) for size in sizes), default=0.0)
    return Check("calibration", True, f"mean probability and rate of events differ by {worst:.4f} at most")


def parity(error: float, rows: int, limits: GateLimits) -> Check:
    """error: the largest difference between the ONNX graph and the trained form (onnx_forecast.parity_error)."""
    text = f"ONNX and trained form differ by {error:.2g} at most, on {rows:,} rows"
    if not error <= limits.parity:
        return Check("parity", False, f"{text}; at most {limits.parity:g} is allowed")
    return Check("parity", True, text)


def latency(one_row_us: float, limits: GateLimits) -> Check:
    text = f"a row takes {one_row_us:.1f} µs in ONNX Runtime; at most {limits.max_latency_us:g} µs is allowed"
    return Check("latency", one_row_us <= limits.max_latency_us, text)


def champion(
    mine: Floats, served: Floats, version: str, blocks: Blocks, limits: GateLimits, score: str = "CRPS"
) -> Check:
    """Scores of the same final rows, (n,), of the candidate and of the champion, which has not trained on them.

    score: its name; an old-style champion has no CRPS. "Not worse" has to be shown: the whole interval lies below the
    margin, a share of the champion's mean score.
    """
    if len(mine) == 0:
        return Check("champion", False, f"champion {version} has trained on all final rows; newer data is needed")
    if not _finite(mine, served):
        return Check("champion", False, f"the {score} of some rows is not a finite number")
    difference = mean_difference(mine, served, blocks, limits.seed)
    margin = limits.champion_margin * float(served.mean())
    text = f"{score} {difference} against champion {version}, on {len(mine):,} rows"
    if difference.lies_above(0):
        return Check("champion", False, f"worse: {text}")
    if difference.high is None or difference.high > margin:
        return Check("champion", False, f"not shown to be no worse: {text}; it must stay below {margin:+.4f}")
    return Check("champion", True, text)


def refusals(checks: Sequence[Check]) -> list[str]:
    return [f"{check.name}: {check.text}" for check in checks if not check.passed]


def _within(excess: Interval, tolerance: Tolerance) -> bool:
    shown = excess.lies_above(tolerance.shown) or excess.lies_below(-tolerance.shown)
    return not shown and abs(excess.point) <= tolerance.most


def _spread(excess: Interval, claimed: float) -> str:
    if excess.low is None or excess.high is None:
        return f" (no interval: {excess.blocks} blocks of time)"
    return f" [{excess.low + claimed:.1%}, {excess.high + claimed:.1%}]"


def _finite(*arrays: Floats) -> bool:
    return all(bool(np.isfinite(values).all()) for values in arrays)
