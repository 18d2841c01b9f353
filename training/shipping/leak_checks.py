"""Whether the rows of a run know anything of the future: training/judging/leaks.py on the run's evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.check import Check
from training.forecasting.kinds import HAR, kind_named
from training.judging import leaks
from training.judging.scores import crps_log
from training.problem.forecast_rows import ForecastRows
from training.problem.target import NS_PER_S, Floats
from training.shipping.run_checks import Candidate, trained_on
from training.shipping.tracking.evidence import places_of
from training.shipping.tracking.record import DataCheck

MAX_FITTED_ROWS = 20_000  # of fits that only look for leaks
CLOCK = ("time_of_day_sin", "time_of_day_cos")  # features that a copy to another date may change


def leak_checks(candidate: Candidate, look_ahead: DataCheck | None, seed: int) -> tuple[Check, ...]:
    """look_ahead: the verdict of training/shipping/look_ahead.py, which had the ticks."""
    return (
        _repeated_rows(candidate),
        _time_order(candidate.rows),
        _look_ahead(look_ahead),
        leaks.neighbours(
            candidate.rows.outcome_bps, series_of(candidate.rows), candidate.blocks(candidate.rows.time_ns), seed
        ),
        _foresight(candidate, seed),
        _hindsight(candidate, seed),
        _placebo(candidate, seed),
    )


def series_of(rows: ForecastRows) -> NDArray[np.int64]:
    """A number for each product of each recording, (n,)."""
    return np.asarray(rows.recording * len(rows.products) + rows.product, dtype=np.int64)


def _repeated_rows(candidate: Candidate) -> Check:
    """Of every part, against the training rows of all recordings. The first part with repeated rows is reported."""
    rows, floor_bps = candidate.rows, candidate.forecast.floor_bps
    kept = [place for place, name in enumerate(rows.schema.names) if name not in CLOCK]

    def columns(some: ForecastRows) -> Floats:
        return np.column_stack([some.features[:, kept], some.outcome_bps])

    checks = [
        leaks.repeated_rows(
            columns(rows.take(trained_on(rows, part))),
            columns(part.rows),
            leaks.moves(part.rows.features, part.rows.outcome_bps, floor_bps),
        )
        for part in candidate.evidence.parts
    ]
    return next((check for check in checks if not check.passed), checks[-1])


def _time_order(rows: ForecastRows) -> Check:
    """look_ahead compares the times with the ticks."""
    series = series_of(rows)
    times = {int(number): np.unique(rows.time_ns[series == number]) for number in np.unique(series)}
    return leaks.time_order(rows.time_ns, series, times)


def _look_ahead(verdict: DataCheck | None) -> Check:
    if verdict is None:
        return Check(
            "look-ahead", False, "no row was computed again from ticks: train on recordings, not on files of features"
        )
    return Check("look-ahead", verdict.passed, verdict.text)


def _foresight(candidate: Candidate, seed: int) -> Check:
    rows, target = candidate.rows, candidate.target
    outcomes = [
        leaks.shifted_outcomes(
            rows.time_ns,
            series_of(rows),
            rows.outcome_bps,
            windows * target.horizon_s * NS_PER_S,
            target.step_s * NS_PER_S,
        )
        for windows in leaks.WINDOWS
    ]
    inputs = candidate.trained.inputs  # a feature that the model does not use cannot help it
    features = rows.features[:, [rows.schema.names.index(name) for name in inputs]]
    return leaks.foresight(inputs, features, outcomes, candidate.blocks(rows.time_ns), seed)


def _hindsight(candidate: Candidate, seed: int) -> Check:
    """Both fits are scored on their own rows: they have equally many weights."""
    rows, target = candidate.rows, candidate.target
    later = leaks.later_rows(rows.time_ns, series_of(rows), target.horizon_s * NS_PER_S, target.step_s * NS_PER_S)
    thinned = _thinned(np.flatnonzero(later >= 0))
    now = rows.take(thinned)
    knowing = replace(now, features=rows.features[later[thinned]])
    har, seen = (
        crps_log(kind_named(HAR).fit(some).forecasts(some.features), some.outcome_bps) for some in (now, knowing)
    )
    return leaks.hindsight(har, seen, candidate.blocks(now.time_ns), seed)


def _placebo(candidate: Candidate, seed: int) -> Check:
    """The kind that ships and climatology, fitted anew to outcomes of other blocks, on thinned rows."""
    rows = candidate.rows
    tested = places_of(rows, candidate.final.rows)
    places = _thinned(np.sort(np.concatenate([np.flatnonzero(trained_on(rows, candidate.final)), tested])))
    some, is_test = rows.take(places), np.isin(places, tested)

    def fit_and_score(outcome_bps: Floats) -> tuple[Floats, Floats]:
        moved = replace(some, outcome_bps=outcome_bps)
        train, test = moved.take(~is_test), moved.take(is_test)
        mine, climatology = (
            crps_log(kind_named(kind).fit(train).forecasts(test.features), test.outcome_bps)
            for kind in (candidate.manifest.kind, "climatology")
        )
        return mine, climatology

    blocks = (candidate.blocks(some.time_ns), candidate.blocks(some.time_ns[is_test]))
    return leaks.placebo(fit_and_score, some.outcome_bps, blocks, seed)


def _thinned(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most MAX_FITTED_ROWS of the places, evenly."""
    return places[:: -(-len(places) // MAX_FITTED_ROWS) or 1]
