"""An evaluation as files: model_eval.json, a page that needs no other file, and its pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError
from training.forecasting.distribution import Forecasts
from training.judging.alerts import CostCurve
from training.judging.comparison import groupings
from training.judging.evaluation_result import CostEval, ModelEval, encode
from training.judging.events import EventScores, brier, event_scores, log_loss
from training.judging.part_scores import ScoredRows, SingleSize
from training.judging.scores import covered, pit_bounds, randomized_pit
from training.reporting import forecast_plots as plots
from training.reporting.evaluation_tables import report
from training.reporting.forecast_page import render

JSON_FILE, HTML_FILE, PICTURES_FOLDER = "model_eval.json", "model_eval.html", "model_eval"
HOUR_NS = 3600 * 10**9


def write_report(out: Path, evaluation: ModelEval, parts: Sequence[ScoredRows]) -> list[Path]:
    """Writes all files and returns their paths, JSON and HTML first.

    parts: the parts of the evaluation, in its order. Raises InputError if the disk refuses a file; then that file is
    as before.
    """
    files = {out / name: data for name, data in report_files(evaluation, parts).items()}
    for path, data in files.items():
        write_whole(path, data)
    return list(files)


def report_files(evaluation: ModelEval, parts: Sequence[ScoredRows]) -> dict[str, bytes]:
    """File name -> bytes, JSON and HTML first. parts: as write_report."""
    pictures = draw(evaluation, parts[-1])
    return {
        JSON_FILE: encode(evaluation),
        HTML_FILE: render(report(evaluation, pictures)).encode(),
        **{f"{PICTURES_FOLDER}/{name}.png": data for name, data in pictures.items()},
    }


def write_whole(path: Path, data: bytes) -> None:
    """Writes next to the path and renames. Raises InputError if the disk refuses."""
    making = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        making.write_bytes(data)
        making.replace(path)
    except OSError as error:
        making.unlink(missing_ok=True)
        raise InputError(f"report {path}: cannot be written: {error.strerror or error}") from None


def draw(evaluation: ModelEval, part: ScoredRows) -> dict[str, bytes]:
    """Pictures of the headline part as PNG, by their names in forecast_page.CAPTIONS."""
    forecasts, headline = part.forecasts[evaluation.kind], evaluation.headline
    if isinstance(forecasts, SingleSize):
        event, probability = part.rows.outcome_bps >= headline.spike_bps, forecasts.probability
        scores = EventScores(event, probability, log_loss(event, probability), brier(event, probability))
        pictures = {"reliability": plots.reliability([plots.SizeScores(headline.spike_bps, scores)])}
    else:
        pictures = _of_distribution(evaluation, part, forecasts)
    curve = headline.models[evaluation.kind].alerts.cost_curve
    reference = headline.models.get(evaluation.reference or "")
    of_reference = reference.alerts.cost_curve if reference else None
    if curve and of_reference:
        pictures["cost_curve"] = plots.cost_curve(_curve(curve), _curve(of_reference))
    return pictures


def _of_distribution(evaluation: ModelEval, part: ScoredRows, forecasts: Forecasts) -> dict[str, bytes]:
    rows, settings = part.rows, evaluation.settings
    low, high = pit_bounds(forecasts, rows.outcome_bps, settings.floor_bps)
    hour = liveliest_hour(part)
    quantiles = forecasts.quantiles_bps(plots.FAN_LEVELS)[hour]
    sizes = [
        plots.SizeScores(size.spike_bps, event_scores(forecasts, rows.outcome_bps, size.spike_bps))
        for size in evaluation.headline.sizes
    ]
    days = groupings(rows.time_ns, [""] * len(rows), np.ones(len(rows)))[0]
    return {
        "fan_chart": plots.fan_chart(rows.time_ns[hour], quantiles, rows.outcome_bps[hour]),
        "pit": plots.pit_histogram(randomized_pit(low, high, settings.seed)),
        "reliability": plots.reliability(sizes),
        "coverage_by_day": plots.coverage_by_day(days, covered(low, high, 0.8), covered(low, high, 0.95)),
    }


def liveliest_hour(part: ScoredRows) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Places of the rows in the hour of a product and recording with the highest outcome, in time order."""
    rows = part.rows
    peak = int(np.argmax(rows.outcome_bps))
    same = (rows.product == rows.product[peak]) & (rows.recording == rows.recording[peak])
    near = same & (np.abs(rows.time_ns - rows.time_ns[peak]) <= HOUR_NS // 2)
    places = np.flatnonzero(near)
    return places[np.argsort(rows.time_ns[places], kind="stable")]


def _curve(curve: CostEval) -> CostCurve:
    levels = [np.inf if level is None else level for level in curve.levels]
    ratios, chosen, cost, always, perfect = (
        np.array(values) for values in (curve.ratios, levels, curve.cost, curve.always, curve.perfect)
    )
    return CostCurve(ratios, chosen, cost, always, np.zeros(len(ratios)), perfect)
