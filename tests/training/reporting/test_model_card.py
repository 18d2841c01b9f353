"""The card from bundles and evaluations: its figures, its files, and the errors of its command."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from common.bundle import MANIFEST_FILE, MODEL_FILE, Manifest, manifest_json
from common.errors import InputError
from common.model_store import ModelStore
from tests.training.forecasting.samples import sample_rows
from training.fitting import forecast_experiment
from training.fitting.forecast_experiment import Settings
from training.forecasting.bundle import make_bundle
from training.judging.evaluation import evaluate_parts
from training.judging.evaluation_result import EvalSettings, ModelEval, ModelRef, encode
from training.reporting import model_card
from training.reporting.model_card import NAME, PICTURES, brief, keep, kept, render, score_rows, write

ROOT = Path(__file__).parents[3]
RESULTS = "benchmarks/results"


@pytest.fixture(scope="module")
def trained() -> tuple[Manifest, bytes, ModelEval]:
    rows = replace(sample_rows(14_000), recordings=("quotes 2021",))
    experiment = forecast_experiment.run(rows, Settings(model_type="ridge", folds=2, final_share=0.3))
    manifest, model = make_bundle("volatility", "4", experiment.fitted["ridge"], experiment.train)
    assert manifest.forecast is not None
    settings = EvalSettings(spike_bps=manifest.forecast.spike_bps, block_s=900.0)
    evaluation = evaluate_parts((*experiment.folds, experiment.final), "ridge", settings)
    return manifest, model, evaluation


@pytest.fixture
def project(tmp_path: Path, trained: tuple[Manifest, bytes, ModelEval]) -> Path:
    """A root with a bundle, the reports of its evaluation, and the study of the repository."""
    manifest, model, evaluation = trained
    files = {
        f"models/volatility/4/{MANIFEST_FILE}": manifest_json(manifest),
        f"models/volatility/4/{MODEL_FILE}": model,
        "reports/model_eval.json": encode(evaluation),
        "reports/checks.json": b'{"passed":false,"checks":[{"name":"skill","passed":false,"text":"not shown"}]}',
        **{f"reports/model_eval/{name}.png": b"a picture" for name in PICTURES},
        f"{RESULTS}/forecasts.json": (ROOT / RESULTS / "forecasts.json").read_bytes(),
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def card(project: Path) -> str:
    keep([(project / "models/volatility/4", project / "reports")], project)
    return write(project).read_text()


def test_the_card_of_the_shipped_models_is_up_to_date() -> None:
    assert (ROOT / "docs" / f"{NAME}.md").read_text() == render(kept()), "write it again: make docs"


def test_the_card_is_of_the_answering_forecasts_and_of_evaluations_of_them() -> None:
    models = kept()
    assert [model.manifest.name for model in models] == ["volatility", "volatility-trailing"]
    for model in models:
        manifest, evaluated = model.manifest, model.evaluation.model
        assert ModelStore(ROOT / "models", manifest.name).answering().name == manifest.version
        assert evaluated is not None
        assert (evaluated.version, evaluated.model_sha256) == (manifest.version, manifest.model_sha256)
        assert [check.name for check in model.checks if not check.passed] == []
        assert model.pictures == tuple(PICTURES)


def test_card_v1_stays_with_its_pictures() -> None:
    text = (ROOT / "docs" / "model_card_v1.md").read_text()
    pictures = re.findall(r"\]\((img/[^)]+)\)", text)
    assert text.startswith("# Model card: volatility 3")
    assert len(pictures) == 8
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)


def test_every_kind_has_its_scores_on_the_folds_and_on_the_final_part(
    project: Path, trained: tuple[Manifest, bytes, ModelEval]
) -> None:
    text, evaluation = card(project), trained[2]
    for part in (evaluation.walk_forward, evaluation.headline):
        assert part is not None
        rows = score_rows(part)
        assert [row[0] for row in rows] == ["Climatology", "z-score", "EWMA", "HAR", "Ridge"]
        for row in rows:
            assert f"| {' | '.join(row)} |" in text
    final = evaluation.headline.models["ridge"].metrics
    ridge = score_rows(evaluation.headline)[-1]
    assert ridge[1] == f"{final['crps_log']:.4f}"
    assert ridge[4:6] == [f"{final['coverage_80']:.1%}", f"{final['coverage_95']:.1%}"]
    assert re.fullmatch(r"-0\.\d{4} \[-0\.\d{4}, [+-]0\.\d{4}\]", ridge[2])


def test_sizes_features_transfers_and_verdicts_are_shown(
    project: Path, trained: tuple[Manifest, bytes, ModelEval]
) -> None:
    text, (manifest, _, evaluation) = card(project), trained
    size = evaluation.headline.sizes[-1]
    assert f"| q99 | {size.spike_bps:.3g} | {size.base_rate:.1%} | {size.event_rate:.1%} |" in text
    for feature in manifest.inputs:
        low, high = manifest.ranges[feature]
        assert f"| `{feature}` | {low:.3g} | {high:.3g} |" in text
    assert "| skill | **refused** | not shown |" in text
    study = msgspec.json.decode((ROOT / RESULTS / "forecasts.json").read_bytes())
    pair = next(each for each in study["trained_on_one"] if each["trained_on"] == "mids of December")
    ridge = next(each for each in pair["kinds"] if each["kind"] == "ridge")
    line = next(each for each in text.splitlines() if each.startswith("| mids of December |"))
    assert f"{ridge['crps_log']:.4f}, {ridge['coverage_80']:.0%}" in line
    assert line.count("|") == 6
    assert "| the other three | " in text


def test_the_card_forbids_trading_and_states_its_limits(project: Path) -> None:
    text = " ".join(card(project).split())
    assert "No trade is placed by this software" in text
    assert "Markets that stand still" in text
    assert "base rate" in text


def test_all_pictures_of_the_card_are_kept(project: Path) -> None:
    shown = re.findall(rf"\]\(({NAME}/[^)]+\.png)\)", card(project))
    assert shown == [f"{NAME}/volatility_4_{name}.png" for name in PICTURES]
    assert all((project / "docs" / name).is_file() for name in shown)


def test_lines_of_prose_are_as_short_as_on_other_pages(project: Path) -> None:
    long = [line for line in card(project).splitlines() if len(line) > 120 and not line.startswith(("|", "!", "#"))]
    assert long == []


def test_what_is_kept_gives_the_same_card(project: Path, trained: tuple[Manifest, bytes, ModelEval]) -> None:
    text, evaluation = card(project), trained[2]
    models = [replace(model, evaluation=evaluation) for model in kept(project)]
    assert render(models) == text
    assert len(encode(brief(evaluation))) < len(encode(evaluation)) / 2


def test_files_of_models_that_left_the_card_are_removed(project: Path) -> None:
    (project / "docs" / NAME).mkdir(parents=True)
    (project / "docs" / NAME / "volatility_3.json").write_bytes(b"{}")
    card(project)
    assert not (project / "docs" / NAME / "volatility_3.json").exists()


def test_an_evaluation_of_another_model_is_refused(project: Path, trained: tuple[Manifest, bytes, ModelEval]) -> None:
    bundle, reports, evaluation = project / "models/volatility/4", project / "reports", trained[2]
    other = ModelRef("volatility", "4", "ridge", "full/2", "x", "another hash")
    for wrong in (msgspec.structs.replace(evaluation, model=other), msgspec.structs.replace(evaluation, kind="har")):
        (reports / "model_eval.json").write_bytes(encode(wrong))
        with pytest.raises(InputError, match="is of another model than"):
            keep([(bundle, reports)], project)
    assert not (project / "docs").exists()


def test_a_bundle_of_an_older_kind_is_refused(project: Path) -> None:
    with pytest.raises(InputError, match="expected a forecast"):
        keep([(ROOT / "models" / "volatility" / "1", project / "reports")], project)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{bundle}"], "expected a folder of reports after each bundle"),
        (["absent", "{bundle}"], "manifest.json cannot be read"),
        (["{bundle}", "absent"], "model_eval.json cannot be read"),
    ],
)
def test_wrong_arguments_are_one_line(project: Path, arguments: list[str], message: str) -> None:
    given = [each.format(bundle=project / "models/volatility/4") for each in arguments]
    result = CliRunner().invoke(model_card.main, given)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
