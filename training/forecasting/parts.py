"""Test rows with the forecasts of models fitted on earlier rows. Scores, gate and reports are made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.bundle import Survival
from training.forecasting.distribution import LocationScale
from training.problem.forecast_rows import ForecastRows

FINAL = "final"


@dataclass(frozen=True, slots=True)
class ForecastPart:
    """A test part under every kind of model, each fitted on the part's own training rows.

    name: "fold 1"…, or FINAL. forecasts: kind -> forecasts of the n rows. sizes, multiples: distribution of the
    training rows' outcomes, in bps and as multiples of the trailing hour (None: the schema has no trailing hour).
    trained_until_ns: event time of the last training row of each recording, by its number in rows.recordings.
    """

    name: str
    rows: ForecastRows
    forecasts: Mapping[str, LocationScale]
    sizes: Survival
    multiples: Survival | None
    trained_until_ns: Mapping[int, int]

    def __post_init__(self) -> None:
        for kind, forecasts in self.forecasts.items():
            if len(forecasts) != len(self.rows):
                raise ValueError(f"{self.name}: {len(forecasts)} forecasts of {kind} for {len(self.rows)} rows")

    def __len__(self) -> int:
        return len(self.rows)
