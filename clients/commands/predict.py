"""`volcast predict`: one prediction from the command line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import click

from clients.requests import Query
from clients.sync import Client
from common.access import make_access, read_token
from common.cli import F, FiniteRange, config_option, examples, json_option
from common.config import load_config
from common.errors import RequestError, UsageError, VolcastError
from common.schema import CORE_1, CORE_1_EXAMPLE
from common.text import listed, shown
from volcast.v1 import ModelSelector, ModelStatus, PredictResponse


def size_option(name: str, unit: str, text: str) -> Callable[[F], F]:
    """An option for a spike size: a positive number, None if it is absent."""
    return click.option(name, type=FiniteRange(min=0, min_open=True), metavar=unit, help=text)


@click.command(
    "predict",
    epilog=examples(
        "volcast predict --example",
        "volcast predict --example --json",
        "volcast predict --example --server inference.example:50051 --tls-ca ca.pem --token-file token",
        'volcast predict --features \'{"price": 65000.01, "midprice": 65000.005, ...}\'',
        "volcast predict --example --spike-bps 5 --quantiles 0.1,0.5,0.9",
    ),
)
@config_option
@click.option("--server", default=None, metavar="HOST:PORT", help="The inference server (default: gateway.server).")
@click.option("--features", default=None, metavar="JSON", help="One row: each feature of the model, by name.")
@click.option("--example", is_flag=True, help=f"Send an example row of {CORE_1.name}.")
@click.option("--model", default="", metavar="NAME", help="Model (default: the server's).")
@click.option("--version", default="", metavar="VERSION", help="Version (default: the version with the label stable).")
@size_option("--spike-bps", "BPS", "Spike size: volatility of the next 60 s in basis points (default: the model's).")
@size_option("--spike-multiple", "X", "Spike size as a multiple of the trailing hour's volatility (schema full/2).")
@click.option("--quantiles", default="", metavar="LEVELS", help="Levels of quantiles to print, such as 0.1,0.5,0.9.")
@click.option("--token-file", default="", metavar="FILE", help="File with the bearer token.")
@click.option("--tls", is_flag=True, help="Use TLS, and trust the public authorities.")
@click.option("--tls-ca", default="", metavar="FILE", help="Use TLS, and trust the authorities in this PEM file.")
@click.option("--tls-cert", default="", metavar="FILE", help="PEM certificate, if the server requires one (mTLS).")
@click.option("--tls-key", default="", metavar="FILE", help="PEM key of the certificate.")
@json_option
def predict(
    config_file: Any,
    server: str | None,
    features: str | None,
    example: bool,
    model: str,
    version: str,
    spike_bps: float | None,
    spike_multiple: float | None,
    quantiles: str,
    token_file: str,
    tls: bool,
    tls_ca: str,
    tls_cert: str,
    tls_key: str,
    as_json: bool,
) -> None:
    """Sends a row of features to the inference server and prints the prediction.

    --features takes a JSON object of numbers: each feature of the model's schema, by name.

    If the model forecasts a distribution, the command also prints the median of the next minute's volatility and the
    base rate: the share of training rows at or above the spike size. Other models refuse --spike-bps, --spike-multiple
    and --quantiles. Standard error names features that the model does not use. It also names each used feature with a
    value outside the range of the training rows.

    Exit codes: 0 done, 1 failed (no answer, or no access), 2 wrong usage (an option or its value).
    """
    config = load_config(config_file)
    if example == (features is not None):
        raise UsageError("give either --features JSON or --example")
    for option, text in (("--model", model), ("--version", version)):
        if not _is_unicode(text):
            raise UsageError(f"{option}: expected Unicode characters, got {shown(text)}")
    row = CORE_1_EXAMPLE if features is None else parse_features(features)
    query = _query(spike_bps, spike_multiple, quantiles)
    target = server or config.gateway.server
    selector = ModelSelector(name=model, version=version or None) if model or version else None
    gateway = config.gateway
    access = make_access(
        read_token(token_file or gateway.server_token_file),
        tls,
        tls_ca or gateway.server_ca,
        tls_cert or gateway.server_cert,
        tls_key or gateway.server_key,
    )
    with Client(target, access=access) as client:
        try:
            response = client.predict_named([row], model=selector, **query)
        except RequestError as error:
            schema = _schema_of(client, model, version) if example and _is_about_features(error) else None
            raise _usage_error(error, schema) from None
        notes = _notes(client, response, row)
    for note in notes:
        click.echo(f"volcast: {note}", err=True)
    click.echo(json.dumps(_fields(response, query)) if as_json else "\n".join(_lines(response, query)))


def _query(spike_bps: float | None, spike_multiple: float | None, quantiles: str) -> Query:
    """The spike size and the levels that the options give. Raises UsageError."""
    if spike_bps is not None and spike_multiple is not None:
        raise UsageError("give either --spike-bps or --spike-multiple")
    query = Query()
    if spike_bps is not None:
        query["spike_bps"] = spike_bps
    if spike_multiple is not None:
        query["spike_multiple"] = spike_multiple
    if quantiles.strip():
        query["quantiles"] = parse_levels(quantiles)
    return query


def parse_levels(text: str) -> tuple[float, ...]:
    """The levels of a text such as "0.1,0.5,0.9". The server checks their values. Raises UsageError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        expected = "numbers with commas between them, such as 0.1,0.5,0.9"
        raise UsageError(f"--quantiles: expected {expected}, got {shown(text)}") from None


def parse_features(text: str) -> dict[str, float]:
    """Feature name to value. The server checks the names. Raises UsageError for invalid JSON or values."""
    try:
        fields = json.loads(text, parse_int=float)  # an integer of 400 digits is infinite, not an OverflowError
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--features is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError(f"--features: expected one JSON object, got {text[:60]!r}")
    for name, value in fields.items():
        if not _is_unicode(name):
            raise UsageError(f"--features: {shown(name)}: expected a name of Unicode characters")
        if not isinstance(value, float) or not math.isfinite(value):
            got = shown(json.dumps(value, ensure_ascii=False), 60)
            raise UsageError(f"--features: {shown(name)}: expected a finite number, got {got}")
    return fields


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode the text: not a lone surrogate of JSON, nor a byte of an option that is no UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


# Fields of a PredictRequest with a single named row, and the options that set them.
_OPTION_OF_FIELD = (
    (re.compile(r'named\.rows\[0\]\.features\["?(.+?)"?\]'), r"--features: \1"),
    (re.compile(r"named\.rows.*|rows"), "--features"),
    (re.compile(r"spike_bps"), "--spike-bps"),
    (re.compile(r"spike_multiple"), "--spike-multiple"),
    (re.compile(r"quantiles(\[\d+\])?"), "--quantiles"),
    (re.compile(r"model\.version"), "--version"),
    (re.compile(r"model(\.name)?"), "--model"),
)


def _usage_error(error: RequestError, schema: ModelStatus | None) -> UsageError:
    """The error, with options instead of fields of the request.

    schema: of the model, if the example row does not fit it.
    """
    if schema is not None:
        takes = f"{shown(schema.schema_name)} ({listed(feature.name for feature in schema.features)})"
        return UsageError(f"--example is a row of {CORE_1.name}; model {schema.name} takes {takes}: use --features")
    return UsageError("; ".join(f"{_option(fault.field)}: {fault.description}" for fault in error.violations))


def _is_about_features(error: RequestError) -> bool:
    return any(fault.field.startswith("named.rows") for fault in error.violations)


def _schema_of(client: Client, name: str, version: str) -> ModelStatus | None:
    """The model that answers these options; None if the server does not list it."""
    health = client.health()
    for model in health.models:
        if model.name == (name or health.default_model) and (
            model.version == version if version else "stable" in model.labels
        ):
            return model
    return None


def _option(field: str) -> str:
    for pattern, option in _OPTION_OF_FIELD:
        match = pattern.fullmatch(field)
        if match is not None:
            return match.expand(option)
    return field


def _notes(client: Client, response: PredictResponse, row: Mapping[str, float]) -> list[str]:
    """A line for each used feature outside the range of the training rows, and a line with the unused features.

    Empty if the server does not list the model, or if its manifest records neither inputs nor ranges.
    """
    try:
        status = _schema_of(client, response.model_name, response.model_version)
    except VolcastError:
        return []
    if status is None:
        return []
    notes = [
        f"{shown(feature.name)}: {row[feature.name]:g} is outside the range of the training rows, "
        f"{feature.low:g} to {feature.high:g}: the prediction is less reliable"
        for feature in status.features
        if feature.used and feature.HasField("low") and not feature.low <= row[feature.name] <= feature.high
    ]
    unused = [feature.name for feature in status.features if not feature.used]
    if 0 < len(unused) < len(status.features):  # older servers do not fill the field
        notes.append(f"model {status.name}/{status.version} does not use {listed(unused)}")
    return notes


def _fields(response: PredictResponse, query: Query) -> dict[str, object]:
    probability = response.probabilities[0]
    fields: dict[str, object] = {
        "probability": probability,
        "threshold": response.threshold,
        "spike": probability >= response.threshold,
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    if response.median_bps:
        fields |= {
            "spike_bps": response.spike_bps,
            "base_rate": response.base_rate,
            "median_bps": response.median_bps[0],
            "quantiles": list(query.get("quantiles", ())),
            "quantile_bps": list(response.quantile_bps),
        }
    return fields


def _lines(response: PredictResponse, query: Query) -> list[str]:
    probability = response.probabilities[0]
    verdict = "spike expected" if probability >= response.threshold else "no spike expected"
    model = f"(model {response.model_name}/{response.model_version})"
    if not response.median_bps:
        return [f"{verdict}: probability {probability:.4f}, threshold {response.threshold:.4f} {model}"]
    of_size = f"probability {probability:.4f} of {response.spike_bps:.4g} bps or more"
    line = f"{of_size}, base rate {response.base_rate:.4f}"
    if "spike_bps" not in query and "spike_multiple" not in query:
        # The alert level belongs to the default spike size.
        line = f"{verdict}: {line}, alert level {response.threshold:.4f}"
    volatility = f"volatility of the next 60 s: median {response.median_bps[0]:.4g} bps"
    if response.quantile_bps:
        levels = zip(query.get("quantiles", ()), response.quantile_bps, strict=True)
        volatility += "; quantiles " + ", ".join(f"{level:g}: {value:.4g}" for level, value in levels) + " bps"
    return [f"{line} {model}", volatility]
