from __future__ import annotations

import json

import numpy as np
import pytest

from clients.commands.predict import parse_features
from common.errors import UsageError
from common.schema import CORE_1_EXAMPLE
from tests.server.bundles import EXAMPLE, Logistic
from tests.server.processes import Process, run_to_end

EXPECTED = float(Logistic(2).predict(np.array([EXAMPLE]))[0])


def test_the_example_is_answered_in_one_line(server: Process) -> None:
    done = run_to_end("predict", "--server", server.address, "--example")
    verdict = "spike expected" if EXPECTED >= 0.5 else "no spike expected"
    assert done.stdout == f"{verdict}: probability {EXPECTED:.4f}, threshold 0.5000 (model volatility/2)\n"
    assert done.returncode == 0


def test_features_are_answered_as_json(server: Process) -> None:
    features = json.dumps(CORE_1_EXAMPLE)
    done = run_to_end("predict", "--server", server.address, "--features", features, "--version", "1", "--json")
    fields = json.loads(done.stdout)
    assert (fields["model_name"], fields["model_version"]) == ("volatility", "1")
    assert fields["probability"] == pytest.approx(Logistic(1).predict(np.array([EXAMPLE]))[0], abs=1e-12)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--config", "nowhere.yaml"), "config file nowhere.yaml: no such file"),
        (
            ("--config", "nowhere.yaml", "--example", "--server", "127.0.0.1:1"),
            "config file nowhere.yaml: no such file",
        ),
        ((), "give either --features JSON or --example"),
        (("--features", "{}", "--example"), "give either --features JSON or --example"),
        (("--features", '{"price": "1"}'), '--features: price: expected a finite number, got "1"'),
        (("--example", "--model", "a\udcff"), r"--model: expected Unicode characters, got a\udcff"),
        (("--example", "--version", "a\udcff"), r"--version: expected Unicode characters, got a\udcff"),
        (("--example", "--server", "127.0.0.1:1"), "inference server at 127.0.0.1:1: UNAVAILABLE: "),
    ],
)
@pytest.mark.process
def test_what_cannot_be_asked_is_one_line(options: tuple[str, ...], line: str) -> None:
    done = run_to_end("predict", *options)
    assert done.returncode != 0
    assert done.stderr.startswith(f"volcast: {line}")
    assert done.stderr.count("\n") == 1


PRICE_ONLY = ("--features", '{"price": 1}')
MISSPELT = ("--features", json.dumps({**CORE_1_EXAMPLE, "prise": 1.0}))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (PRICE_ONLY, "volcast: --features: midprice: missing; --features: return_1s: missing; "),
        (MISSPELT, "volcast: --features: prise: no feature of schema core/1\n"),
        (("--features", "{}"), "volcast: --features: price: missing; "),
        (("--example", "--model", "volatiliti"), "volcast: --model: "),
        (("--example", "--version", "77"), "volcast: --version: "),
    ],
)
def test_an_error_names_the_feature_or_the_option_at_fault(
    server: Process, options: tuple[str, ...], line: str
) -> None:
    done = run_to_end("predict", "--server", server.address, *options)
    assert done.returncode == 2
    assert done.stderr.startswith(line), done.stderr
    assert done.stderr.count("\n") == 1
    assert "named" not in done.stderr
    assert "rows[" not in done.stderr


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "9" * 400, "true", "null", '"1"', "[1]"])
def test_a_feature_that_is_no_finite_number_is_named(value: str) -> None:
    with pytest.raises(UsageError, match="--features: price: expected a finite number, got "):
        parse_features(f'{{"price": {value}}}')


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_what_is_no_json_is_said_to_be_none(text: str) -> None:
    with pytest.raises(UsageError, match="--features is not JSON"):
        parse_features(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"größe": "groß"}', '--features: größe: expected a finite number, got "groß"'),
        (r'{"\u001b[31m": null}', r"--features: \x1b[31m: expected a finite number, got null"),
        (r'{"\ud800": 1}', r"--features: \ud800: expected a name of Unicode characters"),
    ],
)
def test_a_name_is_shown_without_control_characters(text: str, line: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_features(text)
    assert str(raised.value) == line


def test_json_that_is_no_object_is_refused() -> None:
    with pytest.raises(UsageError, match="expected one JSON object"):
        parse_features("[1]")


def test_whole_numbers_become_floats() -> None:
    assert parse_features('{"price": 65000}') == {"price": 65000.0}
