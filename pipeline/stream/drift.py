"""Live drift of a worker: what it predicts on, against the training reference of the model that answers.

The work itself only hands its arrays over; they are thinned and counted when Prometheus asks, or when enough
have gathered. The reference is in the manifest of the model that answered, below the models folder that the
server reads too.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from common.bundle import Manifest, read_bundle
from common.errors import BundleError
from common.log import get_logger
from common.schema import FeatureSchema
from pipeline.drift import WINDOWS_NS, DriftCounts, MissingCounts, Thinning

FOLD_ROWS = 8192  # rows that gather before they are counted: 2 MB of full/1
MAX_MODELS = 4  # stable, a canary, and those before them
RETRY_S = 60.0  # a manifest that cannot be read, or has no reference, is looked at again

ModelKey = tuple[str, str]  # name, version


@dataclass(frozen=True, slots=True)
class _Features:
    product: NDArray[np.int32]  # (n,)
    time_ns: NDArray[np.int64]  # (n,)
    values: NDArray[np.float64]  # (n, features)


@dataclass(frozen=True, slots=True)
class _Predictions(_Features):
    probability: NDArray[np.float64]  # (n,)
    model: ModelKey
    threshold: float


def manifest_in(models_dir: Path, model: ModelKey) -> Manifest:
    """The manifest of a model by the name and version it answers with; raises BundleError."""
    name, version = model
    if any(not one or one.startswith(".") or "/" in one or "\0" in one for one in model):
        raise BundleError(f"model {name!a}/{version!a}: no name of a folder")
    return read_bundle(models_dir / name / version)[0]


class _Model:
    """One model's counts, or when to look for its reference again."""

    def __init__(self) -> None:
        self.counts: DriftCounts | None = None
        self.inputs: frozenset[str] = frozenset()
        self.retry_at_s = 0.0
        self.refusal = ""


class LiveDrift:
    """see_features and see_predictions are called by the worker's thread, collect by any."""

    def __init__(
        self,
        read_manifest: Callable[[ModelKey], Manifest],
        schema: FeatureSchema,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_manifest = read_manifest
        self._schema = schema
        self._clock = clock
        # Appending to a deque and taking from its other end need no lock.
        self._waiting: deque[_Features] = deque()
        self._waiting_rows = 0
        self._folding = threading.Lock()
        self._feature_thinning = Thinning()
        self._prediction_thinning = Thinning()
        self._missing = MissingCounts(len(schema))
        self._models: OrderedDict[ModelKey, _Model] = OrderedDict()
        self.unreferenced = 0  # predictions of models without a reference

    def see_features(self, product: NDArray[np.int32], time_ns: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Feature rows (n, features), warm or not. The arrays are kept: they must not be written to afterwards."""
        self._take(_Features(product, time_ns, values))

    def see_predictions(
        self,
        product: NDArray[np.int32],
        time_ns: NDArray[np.int64],
        values: NDArray[np.float64],
        probability: NDArray[np.float64],
        model: ModelKey,
        threshold: float,
    ) -> None:
        """What a model said of rows (n, features). The arrays are kept, as above."""
        self._take(_Predictions(product, time_ns, values, probability, model, threshold))

    def _take(self, rows: _Features) -> None:
        self._waiting.append(rows)
        self._waiting_rows += len(rows.time_ns)
        if self._waiting_rows >= FOLD_ROWS and self._folding.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._folding.release()

    def collect(self) -> Iterable[Metric]:
        """What /metrics says; families without a sample are left out."""
        with self._folding:
            self._fold()
            families = list(self._families())
        return [family for family in families if family.samples]

    def _fold(self) -> None:
        taken: list[_Features] = []
        while self._waiting:
            taken.append(self._waiting.popleft())
        self._waiting_rows = 0
        self._count_features([one for one in taken if not isinstance(one, _Predictions)])
        predictions = [one for one in taken if isinstance(one, _Predictions)]
        for (model, threshold), batches in groupby(predictions, key=lambda one: (one.model, one.threshold)):
            self._count_predictions(model, threshold, list(batches))

    def _count_features(self, batches: list[_Features]) -> None:
        if batches:
            rows, time_ns = _thinned(batches, self._feature_thinning)
            self._missing.add(time_ns, np.concatenate([one.values for one in batches])[rows])

    def _count_predictions(self, model: ModelKey, threshold: float, batches: list[_Predictions]) -> None:
        rows, time_ns = _thinned(batches, self._prediction_thinning)
        counts = self._counts(model)
        if counts is None:
            self.unreferenced += sum(len(one.time_ns) for one in batches)
            return
        values = np.concatenate([one.values for one in batches])[rows]
        probability = np.concatenate([one.probability for one in batches])[rows]
        counts.add(time_ns, values, probability, threshold)

    def _counts(self, key: ModelKey) -> DriftCounts | None:
        model = self._models.setdefault(key, _Model())
        self._models.move_to_end(key)
        while len(self._models) > MAX_MODELS:
            self._models.popitem(last=False)
        if model.counts is None and self._clock() >= model.retry_at_s:
            model.retry_at_s = self._clock() + RETRY_S
            try:
                manifest = self._read_manifest(key)
                if manifest.reference is None:
                    raise BundleError("its manifest holds no drift reference")
                model.counts = DriftCounts(manifest.reference, self._schema.names)
                model.inputs = frozenset(manifest.inputs or self._schema.names)
            except BundleError as error:
                self._say_once(model, key, str(error))
        return model.counts

    def _say_once(self, model: _Model, key: ModelKey, reason: str) -> None:
        if reason != model.refusal:
            model.refusal = reason
            get_logger().warning("no live drift", model="/".join(key), reason=reason)

    def _families(self) -> Iterator[Metric]:
        feature = _gauge("volcast_worker_feature_psi", "PSI of a feature against training.", "feature", "input")
        probability = _gauge("volcast_worker_probability_psi", "PSI of the probabilities against training.")
        positive = _gauge("volcast_worker_positive_rate", "Rate of probabilities at or above the alert level.")
        rows = _gauge("volcast_worker_drift_rows", "Rows compared, one a second and product.")
        expected = GaugeMetricFamily(
            "volcast_worker_reference_positive_rate", "The same rate in training.", labels=["model", "version"]
        )
        for (name, version), model in self._models.items():
            if model.counts is None:
                continue
            expected.add_metric([name, version], model.counts.reference.positive_rate)
            for window, window_ns in WINDOWS_NS.items():
                drift, where = model.counts.drift(window_ns), [name, version, window]
                rows.add_metric(where, drift.rows)
                if not drift.rows:
                    continue
                probability.add_metric(where, drift.probability)
                positive.add_metric(where, drift.positive_rate)
                for one, index in drift.features.items():
                    feature.add_metric([*where, one, "yes" if one in model.inputs else "no"], index)
        yield from (feature, probability, positive, expected, rows, self._missing_rates())
        yield CounterMetricFamily(
            "volcast_worker_unreferenced_predictions_total",
            "Predictions of models whose manifest gives no drift reference.",
            value=self.unreferenced,
        )

    def _missing_rates(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "volcast_worker_feature_missing_rate", "Rate of values that are no number.", labels=["window", "feature"]
        )
        for window, window_ns in WINDOWS_NS.items():
            rows, rates = self._missing.rates(window_ns)
            for name, rate in zip(self._schema.names, rates.tolist(), strict=True):
                if rows:
                    family.add_metric([window, name], rate)
        return family


def _thinned(batches: Sequence[_Features], thinning: Thinning) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the rows to count, over all batches on end, and their times."""
    time_ns = np.concatenate([one.time_ns for one in batches])
    rows = np.flatnonzero(thinning.first_of_each(np.concatenate([one.product for one in batches]), time_ns))
    return rows, time_ns[rows]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["model", "version", "window", *labels])
