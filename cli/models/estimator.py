"""From Python: one call turns a fitted model into a bundle that a server serves.

from cli.models.estimator import add_estimator

added = add_estimator(model, rows, name="mine")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cli.models.adapt import Adapted, adapt
from cli.models.add import DEFAULT_THRESHOLD, Added, write_adapted
from cli.models.features import SchemaChoice, known_schema, own_schema
from cli.models.graph import rename_tensors
from cli.models.plan import plan
from cli.models.source import source_of
from common.errors import BundleError, TrainingError, UsageError
from common.model_store import ModelStore, model_name
from common.schema import CORE_1, FeatureSchema
from training.shipping import conversion
from training.shipping.conversion import PARITY_LIMIT

CLOSER = 0.1  # of the error: a later way of conversion replaces an earlier one only if it is much closer
TRIED_ROWS = 256  # on which each conversion is first run beside its own source


def add_estimator(
    model: Any,
    rows: Any,
    *,
    name: str,
    models_dir: str | Path = "models",
    schema: str | None = None,
    features: Sequence[str] | None = None,
    positive_class: Any = None,
    threshold: float = DEFAULT_THRESHOLD,
) -> Added:
    """Converts a fitted scikit-learn estimator or pipeline, XGBoost or LightGBM model, and writes the next version.

    The graph must answer as the model does on all of `rows` (to 1e-5); the server's load checks decide as well.

    rows: (rows, features), finite, an array or a DataFrame, as the model takes them; all evaluation rows, at best.
    schema: a name such as "core/1" or "full/2" (common/schema.py). features: names of your own features in the order of
    the columns; without either, the columns of a DataFrame, or core/1 for an array of 11 columns. positive_class: the
    class whose probability is served, by default the second of two. Raises UsageError, TrainingError (the conversion
    differs) or BundleError.
    """
    matrix, names = _matrix(rows, features)
    choice, columns = _choice(name, names, schema, matrix.shape[1])
    if not isinstance(threshold, Real) or not 0 <= threshold <= 1:
        raise UsageError(f"threshold: expected a number from 0 to 1, got {threshold!r}")
    expected, column = conversion.probabilities_of(model, rows, positive_class)
    placed = np.ones((len(matrix), len(choice.schema)))
    placed[:, [choice.schema.names.index(feature) for feature in columns]] = matrix
    candidates = _Candidates(model, choice.schema, columns, column, named=hasattr(rows, "columns"))
    graph, change, error = candidates.best(placed, expected)
    store = ModelStore(Path(models_dir), model_name(name))
    added = write_adapted(graph, store, choice.schema, float(threshold), parity_error=error)
    return replace(added, changes=(change, *added.changes))


@dataclass(frozen=True)
class _Candidates:
    """The ways to convert a model, and the place of its columns in a schema."""

    model: Any
    schema: FeatureSchema
    columns: tuple[str, ...]
    class_column: int | None  # None: the second of two
    named: bool

    def best(self, rows: NDArray[np.float64], expected: NDArray[np.float64]) -> tuple[Adapted, str, float]:
        """The graph that reproduces the model best on every row, how it was made, and its largest difference.

        Raises TrainingError if none is within the limit.
        """
        failures: list[str] = []
        best: tuple[Adapted, str, float] | None = None
        for way in conversion.conversions(self.model, self.columns, named_inputs=self.named):
            try:
                graph = self._adapted(way.model, rows)
            except (BundleError, UsageError) as error:  # UsageError: the graph lacks the column of the class
                failures.append(f"{way.how}: {error}")
                continue
            worst = conversion.compare(graph.model, rows, expected)
            change = f"converted {way.how}; differs from the model by {worst:.2g} at most, on {len(rows):,} rows"
            if worst > PARITY_LIMIT:
                failures.append(f"{way.how} it differs by {worst:.3g}")
            elif best is None or worst < CLOSER * best[2]:
                best = graph, change, worst
        if best is not None:
            return best
        raise TrainingError(
            f"no ONNX graph reproduces {type(self.model).__name__} on {len(rows):,} rows, within {PARITY_LIMIT:g}: "
            f"{'; '.join(failures)}. Known causes: isotonic calibration, calibration around a pipeline, a scaler in "
            "front of trees (trees need none)"
        )

    def _adapted(self, model: bytes, rows: NDArray[np.float64]) -> Adapted:
        source, _ = source_of(model)
        if len(source.graph.input) == len(self.columns) > 1:
            # skl2onnx keeps the order of the columns, but replaces blanks and signs in their names.
            given = [value.name for value in source.graph.input]
            rename_tensors(source.graph, dict(zip(given, self.columns, strict=True)))
        wanted = plan(source, self.schema, None, self.columns)
        if self.class_column is not None:
            wanted = replace(wanted, output=replace(wanted.output, column=self.class_column))
        return adapt(source, wanted, rows[:TRIED_ROWS])


def _matrix(rows: Any, features: Sequence[str] | None) -> tuple[NDArray[np.float64], tuple[str, ...] | None]:
    """The rows as float64, and the names of their columns if they have any. Raises UsageError."""
    try:
        matrix = np.asarray(rows, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"rows: expected numbers: {error}") from None
    if matrix.ndim != 2 or not matrix.size:
        raise UsageError(f"rows: expected (rows, features), at least one of each, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        row, column = (int(axis[0]) for axis in np.nonzero(~np.isfinite(matrix)))
        raise UsageError(f"rows: row {row}, column {column}: expected a finite number, got {matrix[row, column]}")
    given = features if features is not None else getattr(rows, "columns", None)
    names = None if given is None else tuple(str(column) for column in given)
    if names is not None and len(names) != matrix.shape[1]:
        raise UsageError(f"features: expected {matrix.shape[1]} names, got {len(names)}")
    return matrix, names


def _choice(
    model: str, names: tuple[str, ...] | None, schema: str | None, width: int
) -> tuple[SchemaChoice, tuple[str, ...]]:
    """The schema, and the features of it that the columns hold. Raises UsageError or InputError."""
    if schema is None and names is not None and names != CORE_1.names:
        return own_schema(list(names), f"{model}/1"), names
    choice = known_schema(schema or CORE_1.name)
    columns = choice.schema.names if names is None else names
    if len(columns) != width:
        raise UsageError(
            f"rows: expected the {len(columns)} columns of {choice.schema.name}, got {width}; name yours with features"
        )
    unknown = [column for column in columns if column not in choice.schema.names]
    if unknown or len(set(columns)) < len(columns):
        raise UsageError(f"rows: expected columns of {choice.schema.name}, each once, got {', '.join(columns)}")
    return choice, columns
