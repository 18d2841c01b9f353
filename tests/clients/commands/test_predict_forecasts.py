"""`volcast predict` with models that forecast a distribution."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clients.commands.predict import parse_levels
from common.errors import UsageError
from common.schema import CORE_1, CORE_1_EXAMPLE
from tests.server.bundles import EXAMPLE
from tests.server.forecast_server import CORE, USED
from tests.server.forecasts import SIZES, SPIKE_BPS
from tests.server.processes import Process, run_to_end

ROW = np.array([EXAMPLE])
UNUSED = [name for name in CORE_1.names if name not in USED]


def test_the_default_size_is_printed_with_base_rate_alert_level_and_median(forecasts: Process) -> None:
    done = run_to_end("predict", "--server", forecasts.address, "--example")
    probability = CORE.probability(ROW, np.array([SPIKE_BPS]))[0]
    verdict = "spike expected" if probability >= 0.5 else "no spike expected"
    assert done.stdout == (
        f"{verdict}: probability {probability:.4f} of {SPIKE_BPS:g} bps or more, base rate "
        f"{SIZES.share_at(SPIKE_BPS):.4f}, alert level 0.5000 (model volatility/1)\n"
        f"volatility of the next 60 s: median {CORE.medians(ROW)[0]:.4g} bps\n"
    )


def test_a_size_and_levels_are_printed_without_a_verdict(forecasts: Process) -> None:
    options = ("--spike-bps", "4", "--quantiles", "0.1, 0.9")
    done = run_to_end("predict", "--server", forecasts.address, "--example", *options)
    probability = CORE.probability(ROW, np.array([4.0]))[0]
    low, high = CORE.quantiles(ROW, np.array([[0.1, 0.9]]))[0]
    assert done.stdout == (
        f"probability {probability:.4f} of 4 bps or more, base rate 0.1000 (model volatility/1)\n"
        f"volatility of the next 60 s: median {CORE.medians(ROW)[0]:.4g} bps; "
        f"quantiles 0.1: {low:.4g}, 0.9: {high:.4g} bps\n"
    )


def test_json_has_the_names_of_the_contract(forecasts: Process) -> None:
    options = ("--spike-bps", "4", "--quantiles", "0.1,0.9", "--json")
    fields = json.loads(run_to_end("predict", "--server", forecasts.address, "--example", *options).stdout)
    assert (fields["spike_bps"], fields["quantiles"], len(fields["quantile_bps"])) == (4.0, [0.1, 0.9], 2)
    assert {"probability", "threshold", "spike", "base_rate", "median_bps"} <= set(fields)


def test_a_value_outside_its_range_and_unused_features_are_named(forecasts: Process) -> None:
    features = json.dumps({**CORE_1_EXAMPLE, "volatility": 0.5})
    done = run_to_end("predict", "--server", forecasts.address, "--features", features)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "volcast: volatility: 0.5 is outside the range of the training rows, 0.0001 to 0.002: the prediction is less "
        "reliable",
        f"volcast: model volatility/1 does not use {', '.join(UNUSED)}",
    ]


def test_a_model_that_states_nothing_gives_no_notes(forecasts: Process) -> None:
    done = run_to_end("predict", "--server", forecasts.address, "--example", "--model", "plain")
    assert done.stderr == ""
    assert ", threshold 0.5000 (model plain/1)" in done.stdout


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--spike-bps", "4", "--spike-multiple", "2"), "give either --spike-bps or --spike-multiple"),
        (("--spike-bps", "0"), "'--spike-bps': expected a number above 0, got 0"),
        (("--spike-multiple", "nan"), "'--spike-multiple': expected a number above 0, got nan"),
        (("--spike-multiple", "2"), "--spike-multiple: model volatility/1 takes no multiples"),
        (("--quantiles", "0.9,0.1"), "--quantiles: expected ascending levels, got 0.1 after 0.9"),
        (("--quantiles", "half"), "--quantiles: expected numbers with commas between them, such as 0.1,0.5,0.9"),
        (("--model", "plain", "--spike-bps", "4"), "--spike-bps: model plain/1 forecasts no distribution"),
    ],
)
def test_a_wrong_question_names_its_option(forecasts: Process, options: tuple[str, ...], line: str) -> None:
    done = run_to_end("predict", "--server", forecasts.address, "--example", *options)
    assert done.returncode == 2
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_levels_are_read_from_a_text() -> None:
    assert parse_levels("0.1, 0.5 ,0.9") == (0.1, 0.5, 0.9)
    with pytest.raises(UsageError, match="--quantiles"):
        parse_levels("0.1,,0.9")
