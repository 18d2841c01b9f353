"""A real MLflow server: everything of a run arrives, once, however often the server goes away on the way."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from common.config import TrackingConfig
from common.errors import UnavailableError, UsageError
from common.model_store import ModelStore
from tests.training.runs import Made, first, make, without_the_beginning
from tests.training.shipping.tracking.server import Server
from training.judging.gate import GateLimits
from training.shipping import promotion
from training.shipping.aliases import VERSION_NOTE, reconcile
from training.shipping.tracking import experiments, mlflow_server
from training.shipping.tracking.mlflow_server import FINISHED, KIND_TAG, RUN_TAG, URI_VARIABLE, MlflowServer, waiting
from training.shipping.tracking.record import read_run, read_upload

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def made() -> Made:
    return first()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("mlflow"))
    running.start()
    yield running
    running.kill()


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URI_VARIABLE, raising=False)


def client_of(uri: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def runs_of(client: Any, run: str, experiment: str = "volcast") -> list[Any]:
    known = client.get_experiment_by_name(experiment)
    return list(client.search_runs([known.experiment_id], f"tags.`{RUN_TAG}` = '{run}'"))


def test_a_server_killed_half_way_loses_nothing_and_the_upload_goes_on_from_there(
    server: Server, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = TrackingConfig(uri=server.uri, timeout_s=5)
    folder = made.write(tmp_path)
    step = mlflow_server._Upload._step

    def killed_after_metrics(self: Any, name: str, do: Any) -> None:
        step(self, name, do)
        if name == "metrics":
            server.kill()

    monkeypatch.setattr(mlflow_server._Upload, "_step", killed_after_metrics)
    assert experiments.upload_waiting(config, tmp_path) == []
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"volcast: tracking server {server.uri} fails: ")
    assert f"run {folder.name} is kept in {folder}; `volcast models sync` brings the rest" in said
    assert read_upload(folder).done == ["run", "parameters", "metrics"]
    monkeypatch.undo()

    # Away altogether: told at once, and still nothing is lost.
    with pytest.raises(UnavailableError, match=f"tracking server {server.uri} is away: Connection refused"):
        MlflowServer(config).upload(folder)

    server.start()
    assert experiments.upload_waiting(config, tmp_path) == [folder.name]
    assert capfd.readouterr() == ("", "")
    assert waiting(tmp_path, server.uri) == []
    client = client_of(server.uri)
    (run,) = runs_of(client, folder.name)
    kept = read_run(folder)
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (kept.started_ms, kept.ended_ms)
    assert run.data.params.items() >= kept.parameters.items()
    assert run.data.params["data_sha256"] == kept.data_sha256
    assert run.data.params["code"] == kept.code
    assert run.data.metrics.items() >= kept.metrics.items()
    history = client.get_metric_history(run.info.run_id, "fold/har/crps")
    assert [(one.step, one.value) for one in history] == [(1, 0.4), (2, 0.5), (3, 0.6)]
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.digest == kept.data_sha256[:36]
    stored = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert stored == {"run.json", "bundle", "trained", "evidence", "plots"}


def test_an_answer_that_was_lost_makes_nothing_twice(server: Server, made: Made, tmp_path: Path) -> None:
    """The folder knows of no step, though all were done: what a crash before the first note of it leaves."""
    tracker = MlflowServer(TrackingConfig(uri=server.uri, experiment="twice"))
    folder = made.write(tmp_path)
    version = tracker.upload(folder)
    (folder / "upload.json").unlink()
    assert MlflowServer(TrackingConfig(uri=server.uri, experiment="twice")).upload(folder) == version
    client = client_of(server.uri)
    (run,) = runs_of(client, folder.name, "twice")
    assert len(client.get_metric_history(run.info.run_id, "final/har/crps")) == 1
    assert len(client.search_model_versions(f"name = 'volatility' and tag.`{RUN_TAG}` = '{folder.name}'")) == 1


def test_the_registered_model_has_a_signature_and_says_what_the_bundle_says(
    server: Server, made: Made, tmp_path: Path
) -> None:
    tracker = MlflowServer(TrackingConfig(uri=server.uri))
    version = tracker.upload(made.write(tmp_path))
    client = client_of(server.uri)
    source = client.get_model_version("volatility", version).source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(server.uri)
        try:
            model = mlflow.pyfunc.load_model(source)
        finally:
            mlflow.set_tracking_uri(before)
        rows, sizes = made.rows.features[:8], np.full((8, 1), 3.0)
        said = model.predict({"features": rows, "spike_bps": sizes, "levels": np.full((8, 2), [0.1, 0.9])})
    forecasts = made.fitted.forecasts(rows)
    assert_allclose(said["probability"][:, 0], forecasts.exceedance(3.0), rtol=0, atol=1e-6)
    assert_allclose(said["quantile_bps"], forecasts.quantiles_bps(np.array([0.1, 0.9])), rtol=1e-6)
    signature = model.metadata.signature
    assert signature.inputs.inputs[0].shape == (-1, 11)
    assert signature.inputs.inputs[0].type == np.dtype(np.float64)
    assert signature.outputs.inputs[0].name == "probability"


def test_promotion_and_rollback_move_the_aliases(server: Server, made: Made, tmp_path: Path) -> None:
    def renamed(one: Made) -> Made:
        one.change(name="aliased")
        return one

    limits = GateLimits(max_latency_us=1000.0, champion_margin=0.2)
    tracker = MlflowServer(TrackingConfig(uri=server.uri))
    store, runs_dir = ModelStore(tmp_path / "models", "aliased"), tmp_path / "runs"
    for number, change in enumerate((None, without_the_beginning)):
        one = renamed(make(change=change))
        judged = promotion.judge(one.write(runs_dir, 1_765_000_000.0 + number), store, limits)
        promotion.promote(judged, store, tracker, "candidate", now_ms=1)
    assert tracker.aliases("aliased") == {"champion": "1", "candidate": "2"}
    promotion.promote(judged, store, tracker, "champion", now_ms=2)
    assert tracker.aliases("aliased") == {"champion": "2"}
    store.rollback()
    assert reconcile(store, tracker, runs_dir) == {"champion": "1"}
    assert tracker.aliases("aliased") == {"champion": "1"}
    tracker.point("aliased", "champion", "2")
    assert tracker.noted("aliased", "champion", VERSION_NOTE) == "2"
    assert tracker.noted("aliased", "candidate", VERSION_NOTE) is None
    assert reconcile(store, tracker, tmp_path / "kept elsewhere") == {"champion": None}
    assert tracker.aliases("aliased") == {}


def test_a_run_comes_back_from_the_server_to_a_machine_that_has_none(
    server: Server, made: Made, tmp_path: Path
) -> None:
    tracker = MlflowServer(TrackingConfig(uri=server.uri))
    folder = made.write(tmp_path / "here")
    tracker.upload(folder)
    there = tracker.fetch(folder.name, tmp_path / "there")
    assert sorted(path.relative_to(there) for path in there.rglob("*")) == sorted(
        path.relative_to(folder) for path in folder.rglob("*") if path.name != "upload.json"
    )
    store = ModelStore(tmp_path / "models", "volatility")
    assert promotion.judge(there, store, GateLimits(max_latency_us=1000.0)).passed
    assert tracker.fetch(read_upload(folder).run_id, tmp_path / "there") == there
    with pytest.raises(UsageError, match="no run 'unknown'"):
        tracker.fetch("unknown", tmp_path / "there")


def test_sqlite_is_enough_without_a_server(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = made.write(tmp_path / "data" / "runs")
    tracker = MlflowServer(TrackingConfig())
    assert tracker.upload(folder) == "1"
    assert read_upload(folder).has(FINISHED)
    assert (tmp_path / "data" / "mlflow.db").is_file()
    assert list((tmp_path / "data" / "mlartifacts").rglob("manifest.json"))


@pytest.mark.parametrize(
    ("there", "kind"),
    [
        (None, "custom_model_development"),
        ({}, "custom_model_development"),
        ({KIND_TAG: "genai_development_inferred"}, "custom_model_development"),
        ({KIND_TAG: "genai_development"}, "genai_development"),
    ],
    ids=["no experiment", "none", "one that a page guessed", "one that was chosen"],
)
def test_an_experiment_whose_kind_nobody_chose_gets_that_of_training(
    server: Server, made: Made, tmp_path: Path, there: dict[str, str] | None, kind: str
) -> None:
    client = client_of(server.uri)
    if there is not None:
        client.create_experiment(tmp_path.name, tags=there)
    MlflowServer(TrackingConfig(uri=server.uri, experiment=tmp_path.name)).upload(made.write(tmp_path))
    assert client.get_experiment_by_name(tmp_path.name).tags["mlflow.experimentKind"] == kind


def test_the_variable_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URI_VARIABLE, "http://127.0.0.1:1")
    with pytest.raises(UnavailableError, match=r"tracking server http://127\.0\.0\.1:1 is away"):
        MlflowServer(TrackingConfig()).aliases("volatility")
