"""What `volcast train` prints, from the manifest alone."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from common.bundle import Manifest, ManifestSpan, read_bundle
from tests.training.forecasting.samples import sample_rows
from training.forecasting.bundle import make_bundle
from training.forecasting.kinds import kind_named
from training.reporting.training_summary import as_json, difference_text, lead_text, print_report

RIDGE = {
    "crps": 0.2131,
    "qlike": 0.5,
    "coverage_80": 0.8171,
    "coverage_95": 0.958,
    "log_loss": 0.2001,
    "pr_auc": 0.7123,
    "brier": 0.1,
    "crps_minus_har": -0.0057,
    "crps_minus_har_low": -0.0071,
    "crps_minus_har_high": -0.0043,
}
HAR = {"crps": 0.2187, "coverage_80": 0.8255, "coverage_95": 0.9618, "log_loss": 0.2101}


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    rows = sample_rows(1000)
    scores = {"har": HAR, "ridge": RIDGE}
    return make_bundle(
        "volatility", "4", kind_named("ridge").fit(rows), rows, spike_bps=9.5, alert_level=0.4,
        evaluation=ManifestSpan(0, 86_400 * 10**9, 500, 50), metrics=scores, walk_forward=scores,
        parameters={"folds": 5},
    )[0]  # fmt: skip


def printed(manifest: Manifest) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_report(console, manifest, 9.87)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_each_kind_has_a_row_of_scores_on_both_parts(manifest: Manifest) -> None:
    lines = printed(manifest).splitlines()
    ridge = ["Ridge", "0.2131", "-0.0057", "[-0.0071,", "-0.0043]", "81.7%", "95.8%", "0.2001", "0.7123"]
    assert [line.split() for line in lines].count(ridge) == 2
    assert [line.split() for line in lines].count(["HAR", "0.2187", "–", "82.5%", "96.2%", "0.2101", "–"]) == 2
    assert "1970-01-01 00:00 to 1970-01-02 00:00 UTC" in printed(manifest)


def test_the_default_size_stands_next_to_its_base_rate(manifest: Manifest) -> None:
    share = manifest.training.positives / 1000
    assert f"Default spike size 9.5 bps: {share:.1%} of 1,000 training rows" in printed(manifest)
    assert "Alert level: 0.4" in printed(manifest)
    assert "a row takes 9.9 µs" in printed(manifest)


@pytest.mark.parametrize(("high", "verdict"), [(-0.0001, "is shown to beat"), (0.0, "not shown"), (None, "not shown")])
def test_a_lead_over_har_needs_an_interval_below_zero(manifest: Manifest, high: float | None, verdict: str) -> None:
    scores = {name: value for name, value in RIDGE.items() if name != "crps_minus_har_high"}
    scores |= {} if high is None else {"crps_minus_har_high": high}
    assert verdict in lead_text(msgspec.structs.replace(manifest, walk_forward={"ridge": scores}))


def test_har_is_the_baseline(manifest: Manifest) -> None:
    assert lead_text(msgspec.structs.replace(manifest, kind="har")) == "HAR ships: it is the baseline"


def test_a_difference_without_an_interval_is_marked() -> None:
    assert difference_text({"crps_minus_har": 0.01}) == "+0.0100 (no interval)"


def test_the_json_holds_the_same_facts(manifest: Manifest) -> None:
    given = json.loads(msgspec.json.encode(as_json(manifest, "models/volatility/4", 9.876)))
    assert given["spike_bps"] == 9.5
    assert given["base_rate"] == manifest.training.positives / 1000
    assert given["alert_level"] == 0.4
    assert given["walk_forward"]["ridge"] == RIDGE
    assert given["onnx_one_row_us"] == 9.88
    assert (given["kind"], given["schema"], given["bundle"]) == ("ridge", "full/2", "models/volatility/4")


def test_the_size_of_an_older_bundle_is_its_label_in_bps() -> None:
    older = read_bundle(Path(__file__).parents[3] / "models" / "volatility" / "1")[0]
    assert as_json(older, "", 0.0)["spike_bps"] == pytest.approx(older.label.threshold * 1e4)
