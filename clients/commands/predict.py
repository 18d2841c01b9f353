"""`volcast predict`: one prediction from the command line."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import click

from clients.sync import Client
from common.access import make_access, read_token
from common.cli import config_option, examples, json_option
from common.config import load_config
from common.errors import FieldViolation, NotFoundError, RequestError, UsageError
from common.schema import CORE_1, CORE_1_EXAMPLE
from volcast.v1 import ModelSelector, PredictResponse


@click.command(
    "predict",
    epilog=examples(
        "volcast predict --example",
        "volcast predict --example --json",
        "volcast predict --example --server inference.example:50051 --tls-ca ca.pem --token-file token",
        'volcast predict --features \'{"price": 65000.01, "midprice": 65000.005, ...}\'',
    ),
)
@config_option
@click.option("--server", default=None, metavar="HOST:PORT", help="The inference server (default: gateway.server).")
@click.option("--features", default=None, metavar="JSON", help=f"One row: the {len(CORE_1)} features of {CORE_1.name}.")
@click.option("--example", is_flag=True, help="Send an example row.")
@click.option("--model", default="", metavar="NAME", help="Model (default: the server's).")
@click.option("--version", default="", metavar="VERSION", help="Version (default: the version with the label stable).")
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
    token_file: str,
    tls: bool,
    tls_ca: str,
    tls_cert: str,
    tls_key: str,
    as_json: bool,
) -> None:
    """Sends a row of features to the inference server and prints the prediction.

    --features takes a JSON object of numbers, as /predict of the gateway does.
    """
    config = load_config(config_file)
    if example == (features is not None):
        raise UsageError("give either --features JSON or --example")
    row = CORE_1_EXAMPLE if features is None else parse_features(features)
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
            response = client.predict_named([row], model=selector)
        except RequestError as error:
            raise _in_terms_of_options(error) from None
    click.echo(json.dumps(_fields(response)) if as_json else _line(response))


def parse_features(text: str) -> dict[str, float]:
    """Feature name to value. The server checks the names. Raises UsageError for invalid JSON or values."""
    try:
        fields = json.loads(text, parse_int=float)  # an integer of 400 digits is infinite, not an OverflowError
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--features is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError(f"--features: expected one JSON object, got {text[:60]!r}")
    for name, value in fields.items():
        if not isinstance(value, float) or not math.isfinite(value):
            raise UsageError(f"--features: {name}: expected a finite number, got {json.dumps(value)[:60]}")
    return fields


# Fields of a PredictRequest with a single named row, and the options that set them.
_OPTION_OF_FIELD = (
    (re.compile(r'named\.rows\[0\]\.features\["?(.+?)"?\]'), r"--features: \1"),
    (re.compile(r"named\.rows.*|rows"), "--features"),
    (re.compile(r"model\.version"), "--version"),
    (re.compile(r"model(\.name)?"), "--model"),
)


def _in_terms_of_options(error: RequestError) -> RequestError:
    """The error, with options instead of fields of the request."""
    kind = NotFoundError if isinstance(error, NotFoundError) else RequestError
    return kind([FieldViolation(_option(fault.field), fault.description) for fault in error.violations])


def _option(field: str) -> str:
    for pattern, option in _OPTION_OF_FIELD:
        match = pattern.fullmatch(field)
        if match is not None:
            return match.expand(option)
    return field


def _fields(response: PredictResponse) -> dict[str, object]:
    probability = response.probabilities[0]
    return {
        "probability": probability,
        "threshold": response.threshold,
        "spike": probability >= response.threshold,
        "model_name": response.model_name,
        "model_version": response.model_version,
    }


def _line(response: PredictResponse) -> str:
    probability = response.probabilities[0]
    verdict = "spike expected" if probability >= response.threshold else "no spike expected"
    return (
        f"{verdict}: probability {probability:.4f}, threshold {response.threshold:.4f} "
        f"(model {response.model_name}/{response.model_version})"
    )
