"""A server with forecast models beside a model of a single probability."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from common.bundle import Manifest
from common.schema import CORE_1, FULL_2
from tests.server.bundles import write_bundle
from tests.server.forecasts import Forecaster, write_forecast
from tests.server.processes import Process, serve

CORE = Forecaster(1, CORE_1)
FULL = Forecaster(2, FULL_2)
USED = ("volatility", "trade_intensity")
# The model does not use the price, and the example row is outside its range.
RANGES = {"price": (80_000.0, 100_000.0), "volatility": (0.0001, 0.002), "trade_intensity": (0.5, 40.0)}


def with_facts(manifest: Manifest) -> Manifest:
    """Adds the used features, and ranges of the training rows."""
    return msgspec.structs.replace(manifest, inputs=USED, ranges=RANGES)


def write_models(folder: Path) -> Path:
    """volatility/1 forecasts on core/1 and states used features and ranges; wide/1 on full/2; plain/1 does not."""
    write_forecast(folder, seed=CORE.seed, change=with_facts)
    write_forecast(folder, "wide", seed=FULL.seed, schema=FULL_2)
    write_bundle(folder, "plain", seed=3)
    return folder


@contextmanager
def forecast_server(folder: Path, **environ: str) -> Iterator[Process]:
    """A server process with the models of `write_models`."""
    with serve(write_models(folder), **environ) as process:
        yield process
