"""Whether a server would serve a bundle: the server's own load, then the model's latency and its trained form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.bundle import Manifest, read_bundle
from common.check import Check
from common.errors import BundleError, InputError
from common.timing import best_call_us
from server.core.bundles import load_model, scan_folder

if TYPE_CHECKING:
    from server.core.snapshot import Model

RANDOM_ROWS = 4096


def verify_version(models_dir: Path, name: str, version: str, max_latency_us: float) -> tuple[Check, ...]:
    """Checks of one version of the models folder. Raises InputError if the folder cannot be read."""
    scan = scan_folder(models_dir)
    for failure in scan.failures:
        if (failure.name, failure.version) in ((name, ""), (name, version)):
            return (Check("load", False, failure.reason),)
    folder = scan.bundles.get((name, version), models_dir / name / version)
    return _verify(folder, name, version, max_latency_us)


def verify_folder(folder: Path, max_latency_us: float) -> tuple[Check, ...]:
    """Checks of a bundle outside the models folder; its name and version are those of its manifest."""
    try:
        manifest, _ = read_bundle(folder)
    except BundleError as error:
        return (Check("load", False, str(error)),)
    return _verify(folder, manifest.name, manifest.version, max_latency_us)


def load_check(folder: Path) -> Check:
    """Whether a server would load a bundle, wherever it lies."""
    try:
        manifest, _ = read_bundle(folder)
        load_model(folder, manifest.name, manifest.version)
    except BundleError as error:
        return Check("load", False, str(error))
    return Check("load", True, "a server loads it")


def _verify(folder: Path, name: str, version: str, max_latency_us: float) -> tuple[Check, ...]:
    """Checks in order; those that need a model that loads are left out without one."""
    try:
        model = load_model(folder, name, version)
        manifest, _ = read_bundle(folder)
    except BundleError as error:
        return (Check("load", False, str(error)),)
    text = f"a server loads {name}/{version} ({manifest.schema.name}, SHA-256 {manifest.model_sha256[:12]}…)"
    return Check("load", True, text), *_parity(folder, manifest), _latency(manifest, model, max_latency_us)


def _latency(manifest: Manifest, model: Model, max_latency_us: float) -> Check:
    bound = model.predictor.bind(1)
    bound.matrix[:] = manifest.self_test.features
    latency_us = best_call_us(bound.run)
    over = ", which the promotion gate refuses" if latency_us > max_latency_us else ""
    text = f"one row takes {latency_us:.1f} µs; the budget of the promotion gate is {max_latency_us:g} µs{over}"
    return Check("latency", True, text)  # a server serves slow models too


def _parity(folder: Path, manifest: Manifest) -> tuple[Check, ...]:
    """Of a forecast with its trained form, if it lies beside the bundle, on rows around that of the self-test."""
    if manifest.forecast is None:
        return ()  # forms of old-style models have another format
    try:
        from training.forecasting.bundle import PARITY_LEVELS, PARITY_SIZES
        from training.forecasting.onnx_forecast import PARITY, OnnxForecast, parity_error
        from training.shipping.tracking.record import TRAINED
        from training.shipping.trained_form import TRAINED_FILE, read_trained, require_schema
    except ModuleNotFoundError:
        return ()  # without the training extra a trained form cannot be read
    beside = next((path for path in (folder, folder.parent / TRAINED) if (path / TRAINED_FILE).is_file()), None)
    if beside is None:
        return ()
    try:
        trained = read_trained(beside)
        require_schema(trained, manifest.feature_schema())
    except InputError as error:
        return (Check("parity", False, str(error)),)
    scale = np.exp(np.random.default_rng(0).normal(0, 1, (RANDOM_ROWS, len(manifest.self_test.features))))
    rows = np.array(manifest.self_test.features) * scale
    sizes = manifest.forecast.spike_bps * np.geomspace(0.01, 100, PARITY_SIZES)
    worst = parity_error(OnnxForecast(read_bundle(folder)[1]), trained.forecasts, rows, sizes, PARITY_LEVELS)
    text = f"ONNX and trained form differ by {worst:.2g} on {RANDOM_ROWS:,} drawn rows, {PARITY:g} is allowed"
    return (Check("parity", worst <= PARITY, text),)
