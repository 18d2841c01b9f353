"""A worker whose predictions come from a real server with a model that forecasts a distribution."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from clients.sync import Client
from common.bundle import read_bundle
from common.errors import UsageError
from common.labels import LABELS_FILE, read_labels
from tests.pipeline.stream.fakes import Bench, messages_of
from tests.pipeline.stream.ticks import market
from tests.processes import ROOT, await_true
from tests.server.forecast_server import CORE, forecast_server
from tests.server.forecasts import SIZES
from tests.server.processes import Process

LEVELS = (0.1, 0.5, 0.9)

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with forecast_server(tmp_path_factory.mktemp("models")) as process:
        yield process


def finish(bench: Bench) -> None:
    """Steps until all predictions are there, then commits."""

    def is_done() -> bool:
        bench.worker.step(0.0)
        return not bench.consumer.batches and not bench.forecaster.backlog_rows

    await_true(is_done)
    bench.worker.commit()


def test_predictions_are_those_of_the_model_at_the_configured_size_and_levels(server: Process) -> None:
    with Client(server.address, timeout_s=20) as client, client.stream() as stream:
        bench = Bench([messages_of(market(800))], spike_bps=4.0, quantiles=LEVELS, real_stream=stream)
        finish(bench)
    matrix = np.array([row.values for row in bench.delivery.features() if row.warm])
    predictions = bench.delivery.predictions()
    assert len(predictions) == len(matrix) > 50
    assert {(p.spike_bps, p.base_rate, p.model_name) for p in predictions} == {(4.0, SIZES.share_at(4.0), "volatility")}
    np.testing.assert_allclose(
        [p.probability for p in predictions], CORE.probability(matrix, np.full(len(matrix), 4.0)), atol=1e-9
    )
    np.testing.assert_allclose([p.median_bps for p in predictions], CORE.medians(matrix), rtol=1e-9)
    levels = np.tile(LEVELS, (len(matrix), 1))
    np.testing.assert_allclose(
        np.array([p.quantile_bps for p in predictions]), CORE.quantiles(matrix, levels), rtol=1e-9
    )


def test_a_model_of_one_probability_ends_a_worker_with_a_spike_size(server: Process) -> None:
    with Client(server.address, timeout_s=20) as client, client.stream() as stream:
        bench = Bench([messages_of(market(800))], model="plain", spike_bps=4.0, real_stream=stream)
        with pytest.raises(UsageError, match=r"^worker\.spike_bps: model plain/1 forecasts no distribution"):
            finish(bench)
    assert bench.worker.totals.missing.total() == 0


def test_predictions_of_the_shipped_default_carry_its_distribution(inference_server: str) -> None:
    folder = ROOT / "models" / "volatility"
    manifest, _ = read_bundle(folder / str(read_labels(folder / LABELS_FILE).stable))
    assert manifest.forecast is not None
    size_bps = manifest.forecast.spike_bps
    with Client(inference_server, timeout_s=20) as client, client.stream() as stream:
        bench = Bench([messages_of(market(800))], quantiles=LEVELS, real_stream=stream)
        finish(bench)
    predictions = bench.delivery.predictions()
    assert len(predictions) == sum(row.warm for row in bench.delivery.features()) > 50
    assert {(p.model_name, p.model_version) for p in predictions} == {(manifest.name, manifest.version)}
    assert {(p.spike_bps, p.base_rate) for p in predictions} == {(size_bps, manifest.forecast.sizes.share_at(size_bps))}
    for prediction in predictions:
        low, middle, high = prediction.quantile_bps
        assert 0 < low < middle < high
        assert middle == pytest.approx(prediction.median_bps)
        assert (prediction.probability > 0.5) == (prediction.median_bps > size_bps)
