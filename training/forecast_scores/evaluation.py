"""Scores of forecasts on parts of a data set, next to every baseline. No file, no clock: same rows, same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from common.bundle import Survival
from training.forecast_scores.evaluation_result import EvalSettings, ModelEval
from training.forecasting.distribution import Forecasts
from training.forecasting.recordings import ForecastRows

Progress = Callable[[str], None]


class ScoredRows(Protocol):
    """Test rows with forecasts, such as ForecastPart."""

    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> ForecastRows: ...
    @property
    def forecasts(self) -> Mapping[str, Forecasts]:
        """kind -> forecasts of the rows."""
        ...

    @property
    def sizes(self) -> Survival:
        """Outcomes of the training rows, in bps."""
        ...


def evaluate_parts(
    parts: Sequence[ScoredRows], kind: str, settings: EvalSettings, *, progress: Progress = lambda step: None
) -> ModelEval:
    """Evaluates each part, with `kind` against the baselines; parts named "fold …" are evaluated together too.

    Raises InputError if there is no part, a part has no row, or a part has no forecasts of `kind`.
    """
    raise NotImplementedError
