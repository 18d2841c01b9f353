from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from common.bundle import MANIFEST_FILE, MODEL_FILE, Calibration, Manifest, read_bundle
from common.errors import InputError
from tests.training.judging.evaluation.made_up import scored, with_spikes
from training.judging.evaluation import ModelEval, Settings, evaluate_scored
from training.judging.evaluation.result import ModelRef, encode
from training.reporting import evaluation_report as reports
from training.reporting import model_card
from training.reporting.model_card import kept, take_up
from training.reporting.model_card_page import PICTURES, Evaluated, brief, failures, render

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "models" / "volatility" / "1"
SECTIONS = (
    "Intended use", "Model", "Data", "Metrics", "Calibration", "Failure cases", "Limits", "Ethical considerations",
    "How to reproduce",
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_bundle(SHIPPED)[0]


@pytest.fixture(scope="module")
def evaluation() -> ModelEval:
    parts = [scored("fold 1", rows=1500, seed=1), scored("final", rows=1500, seed=2, start_s=5000)]
    return evaluate_scored(parts, "logistic", Settings(resamples=40, group_resamples=20), products=["BTC-USD"])


@pytest.fixture
def project(tmp_path: Path, evaluation: ModelEval) -> Path:
    """A folder with a bundle, and a report with its pictures."""
    bundle = tmp_path / "models" / "volatility" / "1"
    bundle.mkdir(parents=True)
    for name in (MANIFEST_FILE, MODEL_FILE):
        (bundle / name).write_bytes((SHIPPED / name).read_bytes())
    reports.write_whole(tmp_path / "reports" / "model_eval.json", encode(evaluation))
    for name in PICTURES:
        reports.write_whole(tmp_path / "reports" / "model_eval" / f"{name}.png", b"a picture")
    return tmp_path


def test_the_card_says_what_manifest_and_evaluations_say() -> None:
    card = (ROOT / "docs" / "model_card_v1.md").read_text()
    assert card == render(*kept()), "write it again: make docs"


def test_the_card_shows_pictures_that_are_there() -> None:
    shown = re.findall(r"\]\((img/[^)]+)\)", (ROOT / "docs" / "model_card_v1.md").read_text())
    assert shown
    assert [one for one in shown if not (ROOT / "docs" / one).is_file()] == []


def test_the_card_has_the_usual_sections_and_says_that_nothing_is_traded(
    manifest: Manifest, evaluation: ModelEval
) -> None:
    text = render(manifest, [(Evaluated("the final part", "final", tuple(PICTURES)), evaluation)])
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert [one for one in SECTIONS if not any(heading.startswith(one) for heading in headings)] == []
    assert "No trade is placed by this software" in text
    assert "What the numbers do not mean" in text


def test_every_figure_has_its_interval_beside_every_baseline(manifest: Manifest, evaluation: ModelEval) -> None:
    text = render(manifest, [(Evaluated("the final part", "final", tuple(PICTURES)), evaluation)])
    line = next(one for one in text.splitlines() if one.startswith("| PR-AUC |"))
    assert len(re.findall(r"\d \[\d", line)) == 3
    assert "| | logistic | z-score | HAR logit |" in text
    assert "Means over 1 folds" in text


def test_the_calibration_inside_the_graph_is_told(manifest: Manifest, evaluation: ModelEval) -> None:
    calibrated = msgspec.structs.replace(manifest, calibration=Calibration(0.8, -0.25))
    text = render(calibrated, [(Evaluated("the final part", "final", tuple(PICTURES)), evaluation)])
    assert "0.8 · logit -0.25" in text


def test_a_card_without_evaluations_falls_back_on_the_manifest(manifest: Manifest) -> None:
    text = render(manifest)
    assert "As the manifest has it" in text
    assert "| PR-AUC | 0.1522 | 0.1500 | 0.1205 | 0.1477 |" in text


@pytest.mark.parametrize(("spikes", "counted"), [(700, "all 700 rows are spikes"), (4, "4 of 700 rows are spikes")])
def test_a_part_with_too_few_rows_of_a_class_is_introduced_by_that_and_has_no_picture_of_ranks(
    manifest: Manifest, spikes: int, counted: str
) -> None:
    thin = evaluate_scored([with_spikes(spikes)], "logistic", Settings(resamples=40, group_resamples=20))
    text = " ".join(render(manifest, [(Evaluated("April", "april", tuple(PICTURES)), thin)]).split())
    section = text[text.index("## Metrics: April") : text.index("## As the manifest has it")]
    assert section.startswith(
        f"## Metrics: April **Nothing about ranking can be concluded from the final part ({counted})"
    )
    assert section.count("Nothing about ranking") == 1
    pictures = re.findall(r"img/model_card_v1/april_(\w+)\.png", text)
    assert pictures == ["reliability", "percentiles", "over_time"]
    assert "Right: rate of spikes" not in text
    assert ("| PR-AUC |" in section) == (spikes < 700)
    assert "says as much as" not in text


def test_the_card_names_the_regimes_without_a_bar(manifest: Manifest) -> None:
    few_at_first = with_spikes(60, rows=1500)
    evaluation = evaluate_scored([few_at_first], "logistic", Settings(resamples=40, group_resamples=20))
    text = render(manifest, [(Evaluated("the final part", "final", tuple(PICTURES)), evaluation)])
    assert "No bar, for want of 10 rows of each class: not known (3 of 60 rows are spikes)" in text


def test_failures_are_counted_not_praised() -> None:
    deaf = scored("final", rows=1500)
    deaf = replace(deaf, decision_thresholds=dict.fromkeys(deaf.probabilities, 1.0))
    lines = failures(evaluate_scored([deaf], "logistic", Settings(resamples=40, group_resamples=20)))
    assert re.match(
        r"Spike episodes at the decision threshold: (\d+) in all, 0 caught in advance, 0 .*, \1 not", lines[0]
    )
    assert "never raised an alert" in lines[1]


def test_a_mean_probability_far_from_what_came_is_a_failure() -> None:
    settings = Settings(resamples=40, group_resamples=20)
    timid = scored("final", rows=1500)
    assert not any(line.startswith("It said") for line in failures(evaluate_scored([timid], "logistic", settings)))
    timid = replace(timid, probabilities={name: said / 50 for name, said in timid.probabilities.items()})
    often = replace(timid, y=np.ones_like(timid.y), future_volatility=timid.future_volatility + timid.threshold)
    lines = failures(evaluate_scored([often], "logistic", settings))
    assert any(re.fullmatch(r"It said 0\.0\d+ on average, and 1\.00 came", line) for line in lines)


def test_what_is_kept_is_a_fraction_and_gives_the_same_card(manifest: Manifest, evaluation: ModelEval) -> None:
    title = Evaluated("the final part", "final", tuple(PICTURES))
    short = brief(evaluation)
    assert len(encode(short)) < len(encode(evaluation)) / 2
    assert render(manifest, [(title, short)]) == render(manifest, [(title, evaluation)])


def test_taking_up_replaces_what_was_kept_before(project: Path) -> None:
    bundle, report = project / "models" / "volatility" / "1", project / "reports" / "model_eval.json"
    take_up(bundle, [("An early look", report)], project)
    take_up(bundle, [("The final part", report)], project)
    model_card.write(project)
    assert sorted(path.name for path in (project / "docs" / "model_card_v1").iterdir()) == [
        "card.json",
        "the_final_part.json",
    ]
    pictures = {path.name for path in (project / "docs" / "img" / "model_card_v1").iterdir()}
    assert pictures == {f"the_final_part_{name}.png" for name in PICTURES}
    text = (project / "docs" / "model_card_v1.md").read_text()
    assert set(re.findall(r"img/model_card_v1/([^)]+)\)", text)) == pictures


def test_an_evaluation_of_another_model_is_refused(project: Path, evaluation: ModelEval) -> None:
    other = msgspec.structs.replace(evaluation, model=ModelRef("volatility", "1", "logistic", "core/1", "x", "y"))
    reports.write_whole(project / "reports" / "other.json", encode(other))
    with pytest.raises(InputError, match="is of another model than"):
        take_up(project / "models" / "volatility" / "1", [("x", project / "reports" / "other.json")], project)
    about = msgspec.structs.replace(evaluation, primary="har")
    reports.write_whole(project / "reports" / "other.json", encode(about))
    with pytest.raises(InputError, match="is about har, the bundle is of kind logistic"):
        take_up(project / "models" / "volatility" / "1", [("x", project / "reports" / "other.json")], project)
    assert not (project / "docs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evaluation", "x=y"], "name the bundle that it is of"),
        (["{bundle}", "--evaluation", "reports/model_eval.json"], "expected TITLE=FILE"),
        (["{bundle}", "--evaluation", "x=absent.json"], "absent.json: cannot be read"),
        (["absent"], "manifest.json cannot be read"),
    ],
)
def test_wrong_arguments_are_one_line(project: Path, arguments: list[str], message: str) -> None:
    given = [one.format(bundle=project / "models" / "volatility" / "1") for one in arguments]
    result = CliRunner().invoke(model_card.main, given)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
