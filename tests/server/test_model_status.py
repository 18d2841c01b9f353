"""Health states the facts of a model that callers need: spike size, used features, plausible ranges."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.schema import CORE_1, FULL_2
from server.core.models import Repository
from server.rpc.convert import health_response
from server.runtime.state import ServerState
from tests.server.forecast_server import RANGES, USED, write_models
from tests.server.forecasts import SPIKE_BPS
from volcast.v1 import ModelStatus


@pytest.fixture(scope="module")
def statuses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelStatus]:
    repository = Repository("volatility")
    folder: Path = write_models(tmp_path_factory.mktemp("models"))
    repository.load(folder)
    health = health_response(repository.snapshot, "volatility", ServerState(build="1", front="test"))
    return {model.name: model for model in health.models}


def test_a_forecast_model_states_its_default_spike_size(statuses: dict[str, ModelStatus]) -> None:
    assert {name: model.spike_bps for name, model in statuses.items()} == {
        "volatility": SPIKE_BPS,
        "wide": SPIKE_BPS,
        "plain": 0.0,
    }


def test_only_a_schema_with_the_trailing_hour_takes_multiples(statuses: dict[str, ModelStatus]) -> None:
    assert [name for name, model in statuses.items() if model.takes_spike_multiple] == ["wide"]


def test_each_feature_states_whether_it_is_used_and_its_range(statuses: dict[str, ModelStatus]) -> None:
    features = statuses["volatility"].features
    assert [feature.name for feature in features] == list(CORE_1.names)
    assert {feature.name for feature in features if feature.used} == set(USED)
    ranges = {f.name: (f.low, f.high) for f in features if f.HasField("low") and f.HasField("high")}
    assert ranges == RANGES
    assert not any(feature.HasField("low") for feature in features if feature.name not in RANGES)


def test_without_a_list_of_inputs_every_feature_counts_as_used(statuses: dict[str, ModelStatus]) -> None:
    assert [feature.used for feature in statuses["wide"].features] == [True] * len(FULL_2)
    assert [feature.used for feature in statuses["plain"].features] == [True] * len(CORE_1)
