from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from server.core.dataplane import ModelRun
from server.core.models import Repository
from server.core.requests import Selection
from server.core.shadow import ShadowScorer
from server.runtime.model_metrics import model_metrics
from tests.server.bundles import rows, write_bundle


class Models(Collector):
    def __init__(self, repository: Repository, shadows: ShadowScorer | None) -> None:
        self.repository, self.shadows = repository, shadows

    def collect(self):  # type: ignore[no-untyped-def]
        return model_metrics(self.repository, self.shadows)


def samples(repository: Repository, shadows: ShadowScorer | None = None) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(Models(repository, shadows))
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    for version in ("1", "2", "3"):
        write_bundle(tmp_path, version=version, seed=int(version))
    (tmp_path / "volatility" / "4").mkdir()
    (tmp_path / "volatility" / "4" / "manifest.json").touch()
    labels = '{"stable": "1", "canary": {"version": "2", "share": 0.25}, "shadow": ["3"]}'
    (tmp_path / "volatility" / "labels.json").write_text(labels)
    repository = Repository("volatility", lambda: 1234.5)
    repository.load(tmp_path)
    return repository


def test_what_is_held_and_labelled_is_shown(repository: Repository) -> None:
    shown = samples(repository)
    models = {name for name in shown if name.startswith("volcast_server_models{")}
    assert models == {f'volcast_server_models{{model="volatility",version="{version}"}}' for version in "123"}
    labels = {name: value for name, value in shown.items() if name.startswith("volcast_server_model_info")}
    assert labels == {
        'volcast_server_model_info{label="stable",model="volatility",version="1"}': 1.0,
        'volcast_server_model_info{label="canary",model="volatility",version="2"}': 1.0,
        'volcast_server_model_info{label="shadow",model="volatility",version="3"}': 1.0,
    }
    assert shown['volcast_server_model_canary_share{model="volatility",version="2"}'] == 0.25


def test_loads_and_their_failures_are_shown(repository: Repository, tmp_path: Path) -> None:
    shown = samples(repository)
    assert shown['volcast_server_model_failing{model="volatility",version="4"}'] == 1.0
    assert shown["volcast_server_model_load_failures_total"] == 1.0
    assert shown["volcast_server_model_swaps_total"] == 1.0
    assert shown["volcast_server_model_last_good_load_timestamp_seconds"] == 0.0
    shutil.rmtree(tmp_path / "volatility" / "4")
    repository.load(tmp_path)
    shown = samples(repository)
    assert shown["volcast_server_model_last_good_load_timestamp_seconds"] == 1234.5
    assert not [name for name in shown if name.startswith("volcast_server_model_failing")]


def test_a_shadow_is_shown_by_model_and_version(repository: Repository) -> None:
    shadows = ShadowScorer(repository, max_waiting_rows=4)
    stable = repository.resolve(Selection())
    shadows.offer(ModelRun(stable, rows(4), np.array([1.0, 1.0, 1.0, np.nan]), 0))
    shadows.offer(ModelRun(stable, rows(2), np.zeros(2), 0))
    shadows.score_some()
    shown = samples(repository, shadows)
    agreement = shadows.agreements["volatility", "3"]
    expected = {
        "rows_total": 3.0,
        "agreed_rows_total": float(agreement.agreed_rows),
        "difference_total": agreement.difference_sum,
        "difference_max": agreement.difference_max,
        "dropped_rows_total": 2.0,
        "failed_rows_total": 0.0,
    }
    for name, value in expected.items():
        assert shown[f'volcast_server_shadow_{name}{{model="volatility",version="3"}}'] == pytest.approx(value)
    assert agreement.difference_sum > 0


def test_without_shadows_none_is_shown(repository: Repository) -> None:
    assert not [name for name in samples(repository) if "shadow" in name and "info" not in name]
