"""The graph of a forecast: what a row costs, and what it is independent of."""

import numpy as np
import onnx
import pytest

from common.schema import CORE_1, FULL_1, FULL_2, FeatureSchema
from tests.training.forecasting.samples import sample_rows
from training.forecasting import onnx_forecast
from training.forecasting.graph import forecast_graph
from training.forecasting.kinds import kind_named
from training.forecasting.onnx_forecast import OnnxForecast

SCHEMAS = [FULL_2, FULL_1, CORE_1]
NODES = {"climatology": 17, "har": 17, "logistic": 17, "ridge": 20, "xgboost": 22}  # 0.3 to 0.6 us each
LEVELS = np.array([0.01, 0.5, 0.9])


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
@pytest.mark.parametrize("kind", NODES)
def test_a_graph_has_no_more_nodes_than_it_needs(kind: str, schema: FeatureSchema) -> None:
    fitted = kind_named(kind).fit(sample_rows(1000, schema))
    nodes = onnx.load_from_string(forecast_graph(fitted)).graph.node
    assert len(nodes) == NODES[kind] + fitted.design.signed


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
@pytest.mark.parametrize("kind", ["har", "ridge", "xgboost"])
def test_columns_that_are_no_inputs_may_have_any_value(kind: str, schema: FeatureSchema) -> None:
    rows = sample_rows(1000, schema)
    fitted = kind_named(kind).fit(rows)
    model = OnnxForecast(forecast_graph(fitted))
    unused = [place for place, name in enumerate(schema.names) if name not in fitted.inputs]
    features = rows.features[:50].copy()
    sizes, levels = np.full(50, 5.0), np.tile(LEVELS, (50, 1))
    before = model.run(features, sizes, levels)
    features[:, unused] = np.resize([np.nan, np.inf, -1e300, 0.0], (50, len(unused)))
    for first, again in zip(before, model.run(features, sizes, levels), strict=True):
        assert np.array_equal(first, again)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
@pytest.mark.parametrize("kind", NODES)
def test_sizes_up_to_the_floor_are_certain(kind: str, schema: FeatureSchema) -> None:
    rows = sample_rows(1000, schema)
    fitted = kind_named(kind).fit(rows)
    wild = np.random.default_rng(1).choice([0.0, -1.0, 1e-12, 1e6, 1e300, -1e300], (100, len(schema)))
    features = np.vstack([rows.features[:100], wild])
    model = OnnxForecast(forecast_graph(fitted))
    for size in (1e-9, 0.01, fitted.floor_bps):
        probability, _, _ = model.run(features, np.full(len(features), size), np.zeros((len(features), 0)))
        assert probability == pytest.approx(1.0, abs=1e-14)


def test_a_run_in_chunks_gives_the_rows_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sample_rows(300)
    model = OnnxForecast(forecast_graph(kind_named("ridge").fit(rows)))
    inputs = rows.features, np.linspace(1, 20, 300), np.tile(LEVELS, (300, 1))
    whole = model.run(*inputs)
    monkeypatch.setattr(onnx_forecast, "CHUNK_ROWS", 70)
    for all_at_once, in_chunks in zip(whole, model.run(*inputs), strict=True):
        assert in_chunks == pytest.approx(all_at_once, rel=1e-13)
