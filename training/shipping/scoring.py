"""A bundle over rows: its ONNX graph, and its baselines, as a part to evaluate. Needs no training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.bundle import LinearForm, Manifest
from common.errors import InputError
from common.schema import SCHEMAS, FeatureSchema
from training.judging.scored_part import Scored
from training.problem.labels import labels
from training.problem.rows import Rows
from training.problem.ticks import NS_PER_S
from training.shipping.onnx_model import OnnxModel

PART = "evaluation"
GIVEN = "given"  # predictions made elsewhere, beside what the bundle says of the same rows


@dataclass(frozen=True, slots=True)
class Seen:
    """Rows that may be evaluated, and how many were set aside because the model was trained around their time."""

    rows: Rows
    set_aside: int


def schema_for(manifest: Manifest, *, answered: bool = False) -> FeatureSchema:
    """The served schema whose rows hold what the model and, where one does, its baselines look at.

    answered: the model's own, whose rows are those that a server is asked about; baselines may need more history.

    Raises InputError for a model of another schema, or another version of it.
    """
    wanted = manifest.schema
    own = SCHEMAS.get(wanted.name)
    if own is None or own.hash != wanted.hash:
        known = ", ".join(f"{one.name} ({one.hash})" for one in SCHEMAS.values())
        raise InputError(
            f"bundle {manifest.name}/{manifest.version} takes schema {wanted.name} ({wanted.hash}); ticks give {known}"
        )
    if answered:
        return own
    needed = {name for form in manifest.baselines.values() for name in form.columns}
    fitting = [one for one in (own, *SCHEMAS.values()) if needed | set(own.names) <= set(one.names)]
    return fitting[0] if fitting else own


def unseen(rows: Rows, manifest: Manifest) -> Seen:
    """Leaves out rows from the training span and the embargo around it: the model has seen their labels."""
    embargo_ns = int(manifest.parameters.get("embargo_s", 2 * manifest.label.horizon_s) * NS_PER_S)
    span = manifest.training
    outside = (rows.time_ns > span.end_ns + embargo_ns) | (rows.time_ns < span.start_ns - embargo_ns)
    return Seen(rows.take(np.flatnonzero(outside)), int(np.count_nonzero(~outside)))


def score(manifest: Manifest, model: bytes, rows: Rows) -> Scored:
    """The model and its baselines on (rows,), labelled with the bundle's τ.

    Baselines that need a feature the rows lack are left out: missing_baselines says which. Raises InputError
    where the rows lack a feature of the model's schema.
    """
    names = manifest.feature_schema().names
    probabilities = {manifest.kind: OnnxModel(model).probabilities(rows.columns(names))}
    thresholds = {manifest.kind: manifest.decision_threshold}
    for name, form in manifest.baselines.items():
        if name != manifest.kind and set(form.columns) <= set(rows.schema.names):
            probabilities[name] = linear_probabilities(form, rows)
            thresholds[name] = form.decision_threshold
    threshold = manifest.label.threshold
    return Scored(
        part=PART,
        time_ns=rows.time_ns,
        product=rows.product,
        y=labels(rows.future_volatility, threshold),
        future_volatility=rows.future_volatility,
        threshold=threshold,
        climatology=climatology(manifest),
        probabilities=probabilities,
        decision_thresholds=thresholds,
    )


def missing_baselines(manifest: Manifest, schema: FeatureSchema) -> tuple[str, ...]:
    return tuple(name for name, form in manifest.baselines.items() if not set(form.columns) <= set(schema.names))


def climatology(manifest: Manifest) -> float:
    """The rate of spikes in the training rows that τ was taken from: 1 − quantile, by what a quantile is."""
    return 1.0 - manifest.label.quantile


def linear_probabilities(form: LinearForm, rows: Rows) -> NDArray[np.float64]:
    """sigmoid(Σ weight · log(|column| + offset) + bias), (rows,)."""
    logs = np.log(np.abs(rows.columns(form.columns)) + np.asarray(form.offsets))
    logit = logs @ np.asarray(form.weights) + form.bias
    small = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit >= 0, 1.0, small) / (1.0 + small), dtype=np.float64)


def given(scored: Scored, found: NDArray[np.int64], probability: NDArray[np.float64], threshold: float) -> Scored:
    """The rows that have a prediction, with it as the model GIVEN beside what the bundle says.

    found (rows,) is each row's place in probability, -1 for none. Raises InputError where no row has one.
    """
    has = found >= 0
    has[has] = ~np.isnan(probability[found[has]])
    if not has.any():
        raise InputError("no prediction is of a row of the recording: products, event times or recordings differ")
    kept = np.flatnonzero(has)
    ours: Mapping[str, NDArray[np.float64]] = {name: one[kept] for name, one in scored.probabilities.items()}
    return replace(
        scored,
        time_ns=scored.time_ns[kept],
        product=scored.product[kept],
        y=scored.y[kept],
        future_volatility=scored.future_volatility[kept],
        probabilities={GIVEN: probability[found[kept]], **ours},
        decision_thresholds={GIVEN: threshold, **scored.decision_thresholds},
    )


def product_codes(ids: Sequence[str], products: Sequence[str]) -> NDArray[np.int64]:
    """Codes of product names by their place in `products`, -1 for one that is not there; (ids,)."""
    codes = {name: code for code, name in enumerate(products)}
    return np.fromiter((codes.get(one, -1) for one in ids), np.int64, len(ids))
