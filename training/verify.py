"""Whether a bundle is what its manifest promises, asked as a server would and a little more."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.bundle import Manifest, read_bundle
from common.errors import BundleError, InputError
from common.schema import SCHEMAS
from training import promotion
from training.gate import PARITY_LIMIT, Check, Limits
from training.onnx_model import OnnxModel
from training.tracking.record import TRAINED
from training.trained import TRAINED_FILE, read_trained, require_schema

SELF_TEST_TOLERANCE = 1e-6
RANDOM_ROWS = 4096


def verify_bundle(folder: Path, limits: Limits) -> tuple[Check, ...]:
    """Checks in order; those that need what an earlier one did not find are left out."""
    try:
        manifest, model = read_bundle(folder)
    except BundleError as error:
        return (Check("files", False, str(error)),)
    files = Check("files", True, f"{manifest.name}/{manifest.version}, SHA-256 {manifest.model_sha256[:12]}…")
    known = manifest.schema.hash in {schema.hash for schema in SCHEMAS.values()}
    schema = Check(
        "schema", known, f"{manifest.schema.name} {manifest.schema.hash} is known to {'the' if known else 'no'} server"
    )
    test = _self_test(manifest, model)
    if not test.passed:
        return files, schema, test
    row = np.array([manifest.self_test.features], dtype=np.float64)
    latency_us = OnnxModel(model).one_row_us(row)
    latency = Check(
        "latency",
        latency_us <= limits.max_latency_us,
        f"one row takes {latency_us:.1f} µs, the budget is {limits.max_latency_us:g} µs",
    )
    return files, schema, test, *_parity(folder, manifest, model), latency


def _self_test(manifest: Manifest, model: bytes) -> Check:
    test = manifest.self_test
    if len(test.features) != len(manifest.schema.features):
        return Check("self-test", False, f"expected {len(manifest.schema.features)} features, got {len(test.features)}")
    try:
        said = promotion.probabilities(model, np.array([test.features], dtype=np.float64))
    except BundleError as error:
        return Check("self-test", False, str(error))
    good = said.shape == (1,) and bool(abs(said[0] - test.probability) <= SELF_TEST_TOLERANCE)
    got = f"{said[0]:.9g}" if said.size else "nothing"
    return Check("self-test", good, f"expected {test.probability:.9g}, got {got}")


def _parity(folder: Path, manifest: Manifest, model: bytes) -> tuple[Check, ...]:
    """Against the trained form, where it lies beside the bundle, on rows around that of the self-test."""
    beside = next((one for one in (folder, folder.parent / TRAINED) if (one / TRAINED_FILE).is_file()), None)
    if beside is None:
        return ()
    try:
        trained = read_trained(beside)
        require_schema(trained, manifest.feature_schema())
    except InputError as error:
        return (Check("parity", False, str(error)),)
    scale = np.exp(np.random.default_rng(0).normal(0, 1, (RANDOM_ROWS, len(manifest.self_test.features))))
    rows = np.array(manifest.self_test.features) * scale
    worst = float(np.max(np.abs(promotion.probabilities(model, rows) - trained.probabilities(rows))))
    text = f"ONNX and trained form differ by {worst:.2g} on {RANDOM_ROWS:,} drawn rows, {PARITY_LIMIT:g} is allowed"
    return (Check("parity", worst <= PARITY_LIMIT, text),)
