"""Each figure of the gate is computed from the run's own artifacts: a claim that differs is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from common.check import Check
from common.errors import InputError
from common.model_store import ModelStore
from common.schema import FULL_1
from tests.training import runs
from tests.training.runs import Made, replace_manifest
from training.forecasting.kinds import kind_named
from training.judging.gate import GateLimits
from training.judging.scores import crps_log
from training.shipping import promotion, run_checks

pytestmark = pytest.mark.process  # a run records the commit, which git describes

LIMITS = GateLimits(max_latency_us=1000.0)


def verdict(made: Made, folder: Path, name: str) -> Check:
    store = ModelStore(folder / "models", "volatility")
    judged = promotion.judge(made.write(folder / "runs"), store, LIMITS)
    return next(check for check in judged.checks if check.name == name)


def changed(**values: Any) -> Made:
    made = runs.first()
    return replace(made, manifest=replace_manifest(made.manifest, **values))


@pytest.mark.parametrize(("error", "passed"), [(0.9e-5, True), (1.1e-5, False), (-1.1e-5, False), (np.nan, False)])
def test_the_manifest_states_the_crps_of_the_final_part(error: float, passed: bool, tmp_path: Path) -> None:
    made = runs.first()
    final = made.parts[-1]
    crps = crps_log(made.fitted.forecasts(final.rows.features), final.rows.outcome_bps).mean() + error
    claim = {"har": {"crps": float(crps)}} if np.isfinite(error) else {}
    check = verdict(changed(metrics=claim), tmp_path, "reported")
    assert check.passed is passed


def test_training_rows_that_end_less_than_an_embargo_before_the_test_rows_are_refused(tmp_path: Path) -> None:
    made = runs.first()
    fold = made.parts[0]
    until = int(fold.rows.time_ns[0]) - 125 * 10**9
    near = replace(made, parts=[replace(fold, trained_until_ns={0: until}), *made.parts[1:]])
    check = verdict(near, tmp_path, "purged")
    assert not check.passed
    assert "fold 1: the last training row of simulated is 125.0 s before the test rows" in check.text
    assert "reach over 125 s" in check.text
    enough = replace(made, parts=[replace(fold, trained_until_ns={0: until - 1}), *made.parts[1:]])
    assert verdict(enough, tmp_path / "enough", "purged").passed


def test_parts_that_overlap_are_refused(tmp_path: Path) -> None:
    made = runs.first()
    first, second, *others = made.parts
    check = verdict(replace(made, parts=[first, first, second, *others]), tmp_path, "purged")
    assert check.text == "fold 1 and fold 1 overlap in time"


def test_training_rows_that_the_manifest_does_not_count_are_refused(tmp_path: Path) -> None:
    training = runs.first().manifest.training
    more = msgspec.structs.replace(training, rows=training.rows + 1)
    assert not verdict(changed(training=more), tmp_path, "purged").passed
    forecast = runs.first().manifest.forecast
    assert forecast is not None
    no_spans = msgspec.structs.replace(forecast, spans=())
    assert not verdict(changed(forecast=no_spans), tmp_path / "spans", "purged").passed


def test_a_model_that_only_has_the_name_of_har_is_refused(tmp_path: Path) -> None:
    made = runs.first()
    fitted = replace(kind_named("zscore").fit(made.rows), kind="har")
    impostor = replace(made, fitted=fitted, manifest=replace_manifest(made.manifest, inputs=fitted.inputs))
    check = verdict(impostor, tmp_path, "skill")
    assert not check.passed
    assert "is not the regression of that name" in check.text


def test_a_champion_of_another_schema_is_refused(tmp_path: Path) -> None:
    made = runs.first()
    schema = msgspec.structs.replace(made.manifest.schema, name=FULL_1.name, hash=FULL_1.hash)
    champion = run_checks.Champion("3", replace_manifest(made.manifest, schema=schema), made.model)
    check = run_checks.schema(made.manifest, champion)
    assert not check.passed
    assert "takes core/1, but champion 3 takes full/1" in check.text
    unknown = replace_manifest(made.manifest, schema=msgspec.structs.replace(made.manifest.schema, hash="0"))
    assert "core/1 0 is known to no server" in run_checks.schema(unknown, None).text


def test_a_champion_of_forecasts_is_compared_by_crps_on_rows_that_it_has_not_seen(tmp_path: Path) -> None:
    made = runs.first()
    store = ModelStore(tmp_path / "models", "volatility")
    store.put(replace_manifest(made.manifest, decision_threshold=0.4), made.model, {})
    check = verdict(made, tmp_path, "champion")
    assert check.passed
    assert check.text.startswith("CRPS +0.0000 [")
    assert check.text.endswith(f"] against champion 1, on {len(made.parts[-1]):,} rows")


def champion_check(made: Made, folder: Path, *spans: tuple[int, int]) -> Check:
    """Against a champion with these training spans, each from and to a row."""
    time_ns, training, forecast = made.rows.time_ns, made.manifest.training, made.manifest.forecast
    assert forecast is not None
    given = tuple(
        msgspec.structs.replace(training, start_ns=int(time_ns[first]), end_ns=int(time_ns[last]))
        for first, last in spans
    )
    whole = msgspec.structs.replace(training, start_ns=given[0].start_ns, end_ns=given[-1].end_ns)
    forecast = msgspec.structs.replace(forecast, spans=given)
    manifest = replace_manifest(made.manifest, training=whole, forecast=forecast)
    ModelStore(folder / "models", "volatility").put(manifest, made.model, {})
    return verdict(made, folder, "champion")


def test_a_champion_that_has_trained_on_all_final_rows_cannot_be_compared(tmp_path: Path) -> None:
    check = champion_check(runs.first(), tmp_path, (0, -1))
    assert not check.passed
    assert "has trained on all final rows" in check.text


def test_a_champion_has_not_seen_rows_between_its_recordings(tmp_path: Path) -> None:
    made = runs.first()
    check = champion_check(made, tmp_path, (0, 100), (len(made.rows) - 100, -1))
    assert check.passed
    unseen = len(made.parts[-1]) - 100 - 125 // 5
    assert check.text.endswith(f"against champion 1, on {unseen:,} rows")


def test_a_run_of_an_old_style_model_is_not_judged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the model forecasts no distribution"):
        verdict(changed(forecast=None), tmp_path, "schema")
