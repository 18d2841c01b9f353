"""Parts of a simulated market under fitted kinds, for tests of evaluations and their reports."""

from __future__ import annotations

from collections.abc import Sequence

from tests.training.forecasting.samples import sample_rows
from training.forecasting.bundle import survivals
from training.forecasting.kinds import kind_named
from training.forecasting.parts import FINAL, ForecastPart
from training.judging.evaluation_result import EvalSettings
from training.problem.forecast_rows import ForecastRows

KINDS = ("ridge", "har", "climatology")
SETTINGS = EvalSettings(spike_bps=7.0, alert_level=0.4, block_s=600.0)


def part(name: str, train: ForecastRows, test: ForecastRows, kinds: Sequence[str] = KINDS) -> ForecastPart:
    sizes, multiples = survivals(train)
    forecasts = {kind: kind_named(kind).fit(train).forecasts(test.features) for kind in kinds}
    return ForecastPart(name, test, forecasts, sizes, multiples, {0: int(train.time_ns.max())})


def parts(kinds: Sequence[str] = KINDS) -> list[ForecastPart]:
    """Two folds and the final part, of 1,500 rows each."""
    rows = sample_rows(6000)
    names = ("fold 1", "fold 2", FINAL)
    starts = (1500, 3000, 4500)
    return [
        part(name, rows.take(slice(0, start)), rows.take(slice(start, start + 1500)), kinds)
        for name, start in zip(names, starts, strict=True)
    ]
