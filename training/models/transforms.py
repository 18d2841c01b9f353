"""What a model sees of a row: sizes without a scale of price, and their logs.

Each input of a linear model is log(|x| + offset). Logs turn ratios into differences, so that a linear
model over them holds "return over 5 s relative to the minute's volatility" without a division, and
volatility is near to normal in logs (Andersen, Bollerslev, Diebold and Labys 2003). Signs are dropped:
a fall and a rise say the same about how much comes next. The offset is what counts as nothing; it keeps
a quiet market finite. Only what goes around (time of day) keeps its sign, and its scale, cut to ±1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.schema import Feature, FeatureSchema

_OFFSET_OF_UNIT = {
    "log": 1e-6,
    "1/s": 1 / 60,  # one update in a minute
    "s": 1.0,
    "1": 1.0,  # of what is bounded by 1 already, log(1 + |x|) is nearly |x|
}
_SPREAD_OFFSET = 1e-7  # about one cent at 90,000


def usable(schema: FeatureSchema) -> tuple[str, ...]:
    """Names of the features without a unit of the quote currency, which would teach one week's price level."""
    return tuple(feature.name for feature in schema.features if feature.unit != "quote")


def offset(feature: Feature) -> float:
    """What counts as nothing, in the feature's unit."""
    if "spread" in feature.name:
        return _SPREAD_OFFSET
    if feature.name.startswith("return_"):
        return 1e-5  # a tenth of a basis point
    return _OFFSET_OF_UNIT.get(feature.unit, 1.0)


def keeps_sign(name: str) -> bool:
    return name.endswith(("_sin", "_cos"))


@dataclass(frozen=True, slots=True)
class Terms:
    """The inputs of a linear form over a schema: logs of sizes first, then what keeps its sign."""

    names: tuple[str, ...]
    index: tuple[int, ...]  # of the schema's columns
    offsets: tuple[float, ...]  # of the logs, the first inputs

    @classmethod
    def of(cls, schema: FeatureSchema, names: tuple[str, ...]) -> Terms:
        ordered = (*(one for one in names if not keeps_sign(one)), *(one for one in names if keeps_sign(one)))
        index = tuple(schema.names.index(name) for name in ordered)
        offsets = tuple(offset(schema.features[at]) for at in index if not keeps_sign(schema.names[at]))
        return cls(ordered, index, offsets)

    @property
    def logs(self) -> int:
        return len(self.offsets)

    def inputs(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(rows, features of the schema) -> (rows, terms). Finite wherever features are."""
        chosen = features[:, self.index]
        sizes = np.log(np.abs(chosen[:, : self.logs]) + np.array(self.offsets))
        if self.logs == len(self.index):
            return np.asarray(sizes, dtype=np.float64)
        return np.concatenate([sizes, np.clip(chosen[:, self.logs :], -1.0, 1.0)], axis=1)
