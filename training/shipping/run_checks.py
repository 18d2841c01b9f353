"""The gate's checks of a training run. All figures are computed from the run's own artifacts, none from its claims.

training/judging/gate.py judges the figures; training/shipping/leak_checks.py looks for knowledge of the future.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from common.bundle import Manifest, ManifestForecast
from common.check import Check
from common.errors import InputError
from common.schema import SCHEMAS, FeatureSchema
from pipeline.features.engine import reach_ns
from training.forecasting.bundle import PARITY_LEVELS, parity_sizes, span_of, spans_of
from training.forecasting.distribution import LocationScale
from training.forecasting.form import FittedForecast
from training.forecasting.kinds import HAR, kind_named
from training.forecasting.onnx_forecast import OnnxForecast, parity_error
from training.forecasting.parts import FINAL, ForecastPart
from training.judging import gate
from training.judging.blocks import Blocks
from training.judging.events import log_loss, sizes_bps
from training.judging.gate import AtSize, GateLimits
from training.judging.scores import covered, crps_log, pit_bounds
from training.problem.forecast_rows import ForecastRows
from training.problem.target import BPS, NS_PER_S, Floats, Target
from training.shipping.bundle_forecasts import GraphForecasts, outside_training
from training.shipping.onnx_model import OnnxModel
from training.shipping.tracking.evidence import Evidence

REPORTED_TOLERANCE = 1e-5  # of CRPS: the manifest has six digits


@dataclass(frozen=True, slots=True)
class Champion:
    """The version that callers get now."""

    version: str
    manifest: Manifest
    model: bytes


@dataclass(frozen=True)
class Candidate:
    """A model before the gate, with the data of its run. champion: None if no other version is served."""

    manifest: Manifest
    model: bytes
    trained: FittedForecast
    evidence: Evidence
    champion: Champion | None

    @property
    def forecast(self) -> ManifestForecast:
        """Raises InputError if the run is of an old-style model."""
        if self.manifest.forecast is None:
            raise InputError(f"{self.manifest.name}: the model forecasts no distribution, so the gate cannot judge it")
        return self.manifest.forecast

    @property
    def rows(self) -> ForecastRows:
        return self.evidence.rows

    @property
    def folds(self) -> tuple[ForecastPart, ...]:
        return self.evidence.parts[:-1]

    @property
    def final(self) -> ForecastPart:
        return self.evidence.parts[-1]

    @cached_property
    def train(self) -> ForecastRows:
        """The training rows of the shipped model: those up to the last training row of each recording."""
        return self.rows.take(trained_on(self.rows, self.final))

    @property
    def target(self) -> Target:
        forecast = self.forecast
        return Target(int(forecast.horizon_s), int(forecast.step_s), forecast.floor_bps)

    @property
    def embargo_ns(self) -> int:
        """What the windows and the outcome of a row span together: the distance of parts, the length of blocks."""
        return reach_ns(self.rows.schema) + self.target.reach_ns

    def blocks(self, time_ns: NDArray[np.int64]) -> Blocks:
        return Blocks.of(time_ns, self.embargo_ns)

    @cached_property
    def final_forecasts(self) -> LocationScale:
        return self.trained.forecasts(self.final.rows.features)

    @cached_property
    def final_crps(self) -> Floats:
        return crps_log(self.final_forecasts, self.final.rows.outcome_bps)


def trained_on(rows: ForecastRows, part: ForecastPart) -> NDArray[np.bool_]:
    """The rows that the models of a part were fitted on, (n,)."""
    until = np.full(len(rows.recordings), np.iinfo(np.int64).min)
    for number, time_ns in part.trained_until_ns.items():
        until[number] = time_ns
    return np.asarray(rows.time_ns <= until[rows.recording])


def schema(manifest: Manifest, champion: Champion | None) -> Check:
    mine = manifest.schema
    known = {name: each.hash for name, each in SCHEMAS.items()}
    if known.get(mine.name) != mine.hash:
        served = ", ".join(f"{name} {digest}" for name, digest in known.items())
        return Check("schema", False, f"{mine.name} {mine.hash} is known to no server; known: {served}")
    if champion is not None and champion.manifest.schema.hash != mine.hash:
        theirs = champion.manifest.schema.name
        return Check(
            "schema",
            False,
            f"takes {mine.name}, but champion {champion.version} takes {theirs}, which callers of this name send; "
            "train it under another name",
        )
    return Check("schema", True, f"{mine.name} {mine.hash} is known to the server")


def figures(candidate: Candidate, limits: GateLimits) -> tuple[Check, ...]:
    """The checks of figures, in the order in which they are printed. All are made, also if some do not pass."""
    return (
        _parity(candidate, limits),
        _reported(candidate),
        _purged(candidate),
        _skill(candidate, limits),
        _coverage(candidate, limits),
        _calibration(candidate, limits),
        _champion(candidate, limits),
        gate.latency(OnnxForecast(candidate.model).call_us(candidate.final.rows.features[:1]), limits),
    )


def _parity(candidate: Candidate, limits: GateLimits) -> Check:
    rows, trained = candidate.rows, candidate.trained
    error = parity_error(
        OnnxForecast(candidate.model), trained.forecasts, rows.features, parity_sizes(rows), PARITY_LEVELS
    )
    return gate.parity(error, len(rows), limits)


def _reported(candidate: Candidate) -> Check:
    """The evaluated model is the model that ships: the manifest has its CRPS on the final part."""
    manifest = candidate.manifest
    claimed = manifest.metrics.get(manifest.kind, {}).get("crps")
    if claimed is None or candidate.final.name != FINAL:
        return Check("reported", False, f"the manifest has no CRPS of {manifest.kind} on the final part")
    computed = float(candidate.final_crps.mean())
    if not abs(computed - claimed) <= REPORTED_TOLERANCE:
        return Check(
            "reported", False, f"the manifest claims a CRPS of {claimed:.6g} on the final part; it is {computed:.6g}"
        )
    return Check("reported", True, f"CRPS {computed:.4f} on the final part, as in the manifest")


def _purged(candidate: Candidate) -> Check:
    """In each recording, training rows end an embargo before the test rows, and parts follow one another in time."""
    embargo_ns, parts, rows = candidate.embargo_ns, candidate.evidence.parts, candidate.rows
    nearest_ns = np.iinfo(np.int64).max
    for part in parts:
        for number, first_ns, _ in _spans(part):
            until_ns = part.trained_until_ns.get(number)
            if until_ns is not None:
                nearest_ns = min(nearest_ns, first_ns - until_ns)
            if nearest_ns <= embargo_ns:
                return Check(
                    "purged",
                    False,
                    f"{part.name}: the last training row of {rows.recordings[number]} is {nearest_ns / NS_PER_S:.1f} s "
                    f"before the test rows; features and outcomes reach over {embargo_ns / NS_PER_S:g} s",
                )
    for before, after in itertools.pairwise(parts):
        ends = {number: last_ns for number, _, last_ns in _spans(before)}
        if any(ends.get(number, first_ns - 1) >= first_ns for number, first_ns, _ in _spans(after)):
            return Check("purged", False, f"{before.name} and {after.name} overlap in time")
    train, size_bps = candidate.train, candidate.forecast.spike_bps
    claimed = (candidate.manifest.training, candidate.forecast.spans)
    if not len(train) or claimed != (span_of(train, size_bps), spans_of(train, size_bps)):
        return Check("purged", False, "the training rows of the manifest are not those before the final part")
    return Check("purged", True, f"{len(parts)} parts in time order, {nearest_ns / NS_PER_S:.0f} s after training rows")


def _spans(part: ForecastPart) -> list[tuple[int, int, int]]:
    """Number, first and last time of each recording in a part."""
    rows = part.rows
    numbers = np.unique(rows.recording).tolist()
    times = [rows.time_ns[rows.recording == number] for number in numbers]
    return [(number, int(time_ns.min()), int(time_ns.max())) for number, time_ns in zip(numbers, times, strict=True)]


def _skill(candidate: Candidate, limits: GateLimits) -> Check:
    kind, folds = candidate.manifest.kind, candidate.folds
    missing = [name for name in (kind, HAR) if not all(name in fold.forecasts for fold in folds)]
    if missing or not folds:
        return Check("skill", False, f"the run has no walk-forward forecasts of {', '.join(missing) or kind}")
    is_har = kind == HAR
    if is_har and candidate.trained.design != kind_named(HAR).design(candidate.rows.schema):
        return Check("skill", False, f"the model is named {HAR} and is not the regression of that name")
    mine, har = (
        np.concatenate([crps_log(fold.forecasts[name], fold.rows.outcome_bps) for fold in folds])
        for name in (kind, HAR)
    )
    blocks = candidate.blocks(np.concatenate([fold.rows.time_ns for fold in folds]))
    return gate.skill(mine, har, blocks, is_har, limits)


def _coverage(candidate: Candidate, limits: GateLimits) -> Check:
    rows = candidate.final.rows
    bounds = pit_bounds(candidate.final_forecasts, rows.outcome_bps, candidate.forecast.floor_bps)
    return gate.coverage(covered(*bounds, 0.8), covered(*bounds, 0.95), candidate.blocks(rows.time_ns), limits)


def _calibration(candidate: Candidate, limits: GateLimits) -> Check:
    """At the quantiles of the training rows and at the served size."""
    rows, known_bps = candidate.final.rows, candidate.train.outcome_bps
    sizes = [
        AtSize(
            size_bps=size,
            event=rows.outcome_bps >= size,
            probability=candidate.final_forecasts.exceedance(size),
            base_rate=float(np.mean(known_bps >= size)),
        )
        for size in (*sizes_bps(known_bps).tolist(), candidate.forecast.spike_bps)
    ]
    return gate.calibration(sizes, candidate.blocks(rows.time_ns), limits)


def _champion(candidate: Candidate, limits: GateLimits) -> Check:
    champion = candidate.champion
    if champion is None:
        return Check("champion", True, "no other version is served under this name")
    served, version = champion.manifest, champion.version
    if served.is_added:
        return Check("champion", False, f"champion {version} was added from a file: it states no size to compare at")
    names, final = served.feature_schema().names, candidate.final.rows
    if not set(names) <= set(final.schema.names):
        return Check("champion", False, f"champion {version} takes features that the run's rows lack")
    unseen = np.flatnonzero(outside_training(served, final.time_ns))
    rows = final.take(unseen)
    features = rows.features[:, [final.schema.names.index(name) for name in names]]
    if served.forecast is not None:
        score = "CRPS"
        mine = candidate.final_crps[unseen]
        graph = GraphForecasts(OnnxForecast(champion.model), features)
        theirs = crps_log(graph, rows.outcome_bps) if len(unseen) else mine
    else:
        size_bps = served.label.threshold * BPS
        score = f"log loss at {size_bps:.3g} bps"
        event = rows.outcome_bps >= size_bps
        mine = log_loss(event, candidate.trained.forecasts(rows.features).exceedance(size_bps))
        theirs = log_loss(event, OnnxModel(champion.model).probabilities(features)) if len(unseen) else mine
    return gate.champion(mine, theirs, version, candidate.blocks(rows.time_ns), limits, score)


def require_kind(trained: FittedForecast, manifest: Manifest, schema: FeatureSchema) -> None:
    """Raises InputError if the trained form is not the model that the manifest describes."""
    if trained.schema.hash != schema.hash or (trained.kind, trained.inputs) != (manifest.kind, manifest.inputs):
        raise InputError(
            f"the trained form is {trained.kind} of {', '.join(trained.inputs)}, the manifest says {manifest.kind} of "
            f"{', '.join(manifest.inputs)}"
        )
