"""A worker's live drift on arrays: what is counted, when, and what /metrics says of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from common.bundle import Manifest, read_bundle
from common.errors import BundleError
from common.schema import CORE_1
from pipeline.drift import LARGE_PSI, MODERATE_PSI, reference_of
from pipeline.stream.drift import FOLD_ROWS, MAX_MODELS, RETRY_S, LiveDrift, ModelKey, manifest_in
from tests.processes import ROOT

SHIPPED, _ = read_bundle(ROOT / "models" / "volatility" / "1")
KEY = ("volatility", "1")
START_NS = 1_764_565_200 * 10**9
VOLATILITY = CORE_1.names.index("volatility")


def rows(count: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).lognormal(size=(count, len(CORE_1)))


def chances(count: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).beta(1, 4, count)


MANIFEST = msgspec.structs.replace(
    SHIPPED, reference=reference_of(CORE_1.names, rows(20_000, 1), chances(20_000, 2), 0.5), inputs=("volatility",)
)


class Feed:
    """Rows a second apart, handed over in batches of a size, all predicted."""

    def __init__(self, read: Callable[[ModelKey], Manifest] = lambda key: MANIFEST) -> None:
        self.now_s = 0.0
        self.drift = LiveDrift(read, CORE_1, lambda: self.now_s)

    def give(self, values: NDArray[np.float64], batch: int = 100, key: ModelKey = KEY, period_s: float = 1.0) -> None:
        product = np.zeros(len(values), np.int32)
        time_ns = START_NS + (np.arange(len(values)) * period_s * 1e9).astype(np.int64)
        probability = chances(len(values), 9)
        for start in range(0, len(values), batch):
            of = slice(start, start + batch)
            self.drift.see_features(product[of], time_ns[of], values[of])
            self.drift.see_predictions(product[of], time_ns[of], values[of], probability[of], key, 0.5)

    def samples(self) -> dict[tuple[str, ...], float]:
        return {
            (sample.name.removeprefix("volcast_worker_"), *sample.labels.values()): sample.value
            for family in self.drift.collect()
            for sample in family.samples
        }


def test_a_market_like_training_is_told_from_one_that_is_not() -> None:
    feed = Feed()
    moved = rows(3000, 3)
    moved[:, VOLATILITY] *= 3
    feed.give(moved)
    samples = feed.samples()
    assert samples["feature_psi", *KEY, "24h", "volatility", "yes"] > LARGE_PSI
    assert samples["feature_psi", *KEY, "24h", "spread_rel", "no"] < MODERATE_PSI
    assert samples["probability_psi", *KEY, "24h"] < MODERATE_PSI
    assert samples["drift_rows", *KEY, "24h"] == 3000
    assert samples["positive_rate", *KEY, "24h"] == pytest.approx(samples["reference_positive_rate", *KEY], abs=0.03)


@pytest.mark.parametrize("batch", [1, 7, 5000])
def test_what_is_said_does_not_depend_on_batches(batch: int) -> None:
    whole, pieces = Feed(), Feed()
    values = rows(3000, 3)
    whole.give(values, 3000)
    pieces.give(values, batch)
    assert pieces.samples() == whole.samples()


def test_of_many_ticks_a_second_the_first_is_counted_as_in_training() -> None:
    feed = Feed()
    feed.give(rows(300, 3), period_s=0.1)
    assert feed.samples()["drift_rows", *KEY, "1h"] == 30


def test_what_gathers_is_counted_before_it_grows() -> None:
    feed = Feed()
    feed.give(rows(2 * FOLD_ROWS, 3))
    assert sum(len(one.time_ns) for one in feed.drift._waiting) < FOLD_ROWS


def test_values_that_are_no_number_are_a_rate_by_feature() -> None:
    feed = Feed()
    values = rows(100, 3)
    values[:25, VOLATILITY] = np.nan
    feed.give(values)
    samples = feed.samples()
    assert samples["feature_missing_rate", "1h", "volatility"] == 0.25
    assert samples["feature_missing_rate", "1h", "spread_rel"] == 0


def test_a_model_without_a_reference_has_no_drift_and_that_is_said_once() -> None:
    feed = Feed(lambda key: SHIPPED)
    with capture_logs() as logs:
        for _ in range(3):
            feed.give(rows(10, 3))
            samples = feed.samples()
            feed.now_s += 2 * RETRY_S
    assert [(entry["event"], entry["model"]) for entry in logs] == [("no live drift", "volatility/1")]
    assert samples["unreferenced_predictions_total",] == 30
    assert not {name for name, *_ in samples} & {"feature_psi", "probability_psi", "positive_rate", "drift_rows"}


def test_a_manifest_that_comes_later_is_taken_then() -> None:
    found: list[Manifest] = []

    def read(key: ModelKey) -> Manifest:
        if not found:
            raise BundleError("bundle volatility/1: manifest.json cannot be read")
        return found[0]

    feed = Feed(read)
    with capture_logs():
        feed.give(rows(10, 3))
        feed.drift.collect()
        found.append(MANIFEST)
        feed.give(rows(10, 3))
        assert ("drift_rows", *KEY, "1h") not in feed.samples()
        feed.now_s += RETRY_S
        feed.give(rows(10, 3))
    assert ("drift_rows", *KEY, "1h") in feed.samples()


def test_each_version_that_answers_is_counted_for_itself_and_old_ones_are_let_go() -> None:
    feed = Feed()
    for version in range(MAX_MODELS + 2):
        feed.give(rows(10 + version, 3), key=("volatility", str(version)))
    counted = {key[2]: value for key, value in feed.samples().items() if key[0] == "drift_rows" and key[3] == "1h"}
    assert set(counted) == {str(version) for version in range(2, MAX_MODELS + 2)}


@pytest.mark.parametrize("key", [("..", "1"), ("volatility", "../1"), ("", "1"), ("volatility", "\0")])
def test_a_name_that_leads_out_of_the_models_folder_is_refused(key: ModelKey) -> None:
    with pytest.raises(BundleError, match="no name of a folder"):
        manifest_in(ROOT / "models", key)


def test_a_manifest_is_found_by_what_the_predictions_name(tmp_path: Path) -> None:
    assert manifest_in(ROOT / "models", KEY) == SHIPPED
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        manifest_in(tmp_path, KEY)


def test_prometheus_may_ask_while_the_worker_works() -> None:
    feed, stop = Feed(), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            feed.drift.collect()

    asking = threading.Thread(target=ask)
    asking.start()
    feed.give(rows(6000, 3), 3)
    stop.set()
    asking.join()
    assert feed.samples()["drift_rows", *KEY, "24h"] == 6000
