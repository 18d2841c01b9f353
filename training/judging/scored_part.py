"""What an experiment hands to its evaluation: out-of-sample probabilities beside what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.problem.labels import labels

FINAL = "final"


@dataclass(frozen=True, slots=True)
class Scored:
    """One test part under every kind of model, each fitted and calibrated on what came before it.

    Arrays have shape (rows,), in time order.
    """

    part: str  # "fold 1"…, FINAL
    time_ns: NDArray[np.int64]
    product: NDArray[np.int64]
    y: NDArray[np.int8]
    future_volatility: NDArray[np.float64]
    threshold: float  # τ, of the part's own training rows
    climatology: float  # the rate of spikes in the training rows that τ was taken from
    probabilities: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)  # by kind of model
    decision_thresholds: Mapping[str, float] = field(default_factory=dict)  # by kind, chosen on validation rows only

    def __post_init__(self) -> None:
        lengths = {len(one) for one in (self.time_ns, self.product, self.y, self.future_volatility)}
        lengths |= {len(one) for one in self.probabilities.values()}
        if len(lengths) != 1:
            raise ValueError(f"{self.part}: arrays differ in length: {sorted(lengths)}")
        if not np.array_equal(self.y, labels(self.future_volatility, self.threshold)):
            raise ValueError(f"{self.part}: y is not what future_volatility and threshold say")
        if self.probabilities.keys() != self.decision_thresholds.keys():
            raise ValueError(f"{self.part}: probabilities and decision thresholds name different kinds")

    def __len__(self) -> int:
        return len(self.y)
