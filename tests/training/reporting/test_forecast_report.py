from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from common.bundle import Survival
from tests.training.judging.evaluated import SETTINGS, parts
from training.forecasting.parts import ForecastPart
from training.judging.comparison import Interval
from training.judging.evaluation import evaluate_parts
from training.judging.evaluation_result import ModelEval, decode
from training.judging.part_scores import SingleSize
from training.reporting.evaluation_tables import report, verdict
from training.reporting.forecast_report import draw, liveliest_hour, write_report
from training.shipping.bundle_forecasts import BundlePart

PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def given() -> list[ForecastPart]:
    return parts(("ridge", "har"))


@pytest.fixture(scope="module")
def evaluation(given: list[ForecastPart]) -> ModelEval:
    return evaluate_parts(given, "ridge", SETTINGS)


def test_all_files_are_written_and_read_back(given: list[ForecastPart], evaluation: ModelEval, tmp_path: Path) -> None:
    written = write_report(tmp_path, evaluation, given)
    assert [path.name for path in written[:2]] == ["model_eval.json", "model_eval.html"]
    pictures = {path.stem: path.read_bytes() for path in written[2:]}
    assert set(pictures) == {"fan_chart", "pit", "reliability", "coverage_by_day", "cost_curve"}
    assert all(data.startswith(PNG) for data in pictures.values())
    assert decode(written[0].read_bytes(), "the written file") == evaluation
    page = written[1].read_text()
    assert page.count("data:image/png") == 5
    for text in ("Forecasts of Ridge", "Spike sizes", "Ridge minus HAR", "Alerts", "CRPS by hour"):
        assert text in page
    assert f"{evaluation.headline.models['ridge'].metrics['crps_log']:.4f}" in page


def test_no_sentence_of_a_page_is_repeated(given: list[ForecastPart], evaluation: ModelEval, tmp_path: Path) -> None:
    page = write_report(tmp_path, evaluation, given)[1].read_text()
    body = page[page.index("<body>") :]
    sentences = [text for text in re.findall(r">([^<>]{30,})<", body) if "alt=" not in text]
    assert len(sentences) > 5
    assert len(sentences) == len(set(sentences))


def test_the_verdict_names_folds_and_final_part_once_each(evaluation: ModelEval) -> None:
    text = verdict(evaluation)
    assert len(re.findall(r"Ridge is better than HAR by CRPS \(-0\.\d{4}, 95 % interval", text)) == 2
    assert text.startswith("On the folds, ")
    assert "On the final part, " in text


def test_the_verdict_claims_nothing_within_chance_or_without_an_interval(evaluation: ModelEval) -> None:
    def with_interval(low: float | None, high: float | None, better: bool | None) -> str:
        part = evaluation.headline
        (crps,) = (each for each in part.differences if each.metric == "crps_log")
        crps = msgspec.structs.replace(crps, interval=Interval(0.01, low, high, 4), better=better)
        part = msgspec.structs.replace(part, differences=(crps,))
        return verdict(msgspec.structs.replace(evaluation, parts=(part,), walk_forward=None))

    assert "do not differ by more than chance" in with_interval(-0.01, 0.03, None)
    assert "Ridge is worse than HAR" in with_interval(0.005, 0.03, False)
    assert "cannot be compared: 4 blocks of time, and an interval needs 6" in with_interval(None, None, None)


def test_without_a_baseline_the_page_claims_no_comparison(given: list[ForecastPart]) -> None:
    final = given[-1]
    alone = BundlePart("evaluation", final.rows, {"ridge": final.forecasts["ridge"]}, final.sizes)
    evaluation = evaluate_parts([alone], "ridge", SETTINGS)
    assert verdict(evaluation) == "No baseline was evaluated next to the model."
    assert "cost_curve" not in draw(evaluation, alone)
    assert "minus" not in " ".join(table.title for table in report(evaluation, {}).tables)


def test_a_model_of_a_single_size_has_reliability_and_costs_only(given: list[ForecastPart]) -> None:
    final = given[-1]
    answers = {kind: SingleSize(final.forecasts[kind].exceedance(7.0)) for kind in ("ridge", "har")}
    old = BundlePart("evaluation", final.rows, answers, Survival((7.0,), (0.1,)))
    evaluation = evaluate_parts([old], "ridge", SETTINGS)
    assert set(draw(evaluation, old)) == {"reliability", "cost_curve"}
    titles = [table.title for table in report(evaluation, {}).tables]
    assert "Spike sizes" not in titles
    assert "log loss by hour" in titles


def test_the_fan_chart_shows_the_hour_around_the_highest_outcome(given: list[ForecastPart]) -> None:
    rows = given[-1].rows
    hour = liveliest_hour(given[-1])
    times = rows.time_ns[hour]
    assert int(np.argmax(rows.outcome_bps)) in hour
    assert times[-1] - times[0] <= 3600 * 10**9
    assert (np.diff(times) > 0).all()
