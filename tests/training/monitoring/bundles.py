"""Small forecast bundles, fitted on sample rows."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from common.bundle import Manifest, read_bundle
from common.model_store import ModelStore
from common.schema import SCHEMAS
from tests.processes import ROOT
from tests.training.forecasting.samples import sample_rows
from training.forecasting.bundle import make_bundle
from training.forecasting.kinds import kind_named

LEVEL = 0.6  # of log volatility in bps: about that of tests.training.synthetic.market
SPIKE_BPS = 0.8  # default size: about the median of the market's calm stretches
OLD_STYLE = read_bundle(ROOT / "models" / "volatility" / "1")


@cache
def forecast_bundle(schema: str = "full/2", version: str = "1", kind: str = "ridge") -> tuple[Manifest, bytes]:
    rows = sample_rows(1500, SCHEMAS[schema], seed=int(version), level=LEVEL)
    baselines = {name: kind_named(name).fit(rows) for name in ("climatology", "har")}
    return make_bundle(
        "volatility", version, kind_named(kind).fit(rows), rows, spike_bps=SPIKE_BPS, baselines=baselines
    )


def write_forecast_bundle(models: Path, schema: str = "full/2", version: str = "1") -> Path:
    """Writes <models>/volatility/<version>."""
    manifest, graph = forecast_bundle(schema, version)
    ModelStore(models, "volatility").put(manifest, graph, {})
    return models / "volatility" / version
