"""Bundles by the name and version in predictions, and the versions that are shadows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from common.bundle import read_bundle
from common.errors import BundleError, InputError
from common.log import get_logger
from common.model_store import ModelStore
from training.monitoring.served import Served
from training.problem.target import Target

LOOK_AGAIN_S = 30.0


class BundleFolder:
    """The models folder, read again from time to time: bundles and labels may change while the monitor runs."""

    def __init__(
        self,
        models_dir: Path,
        target: Target,
        shadows: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """shadows: "NAME/VERSION" to score next to those in labels.json."""
        self._models_dir = models_dir
        self._target = target
        self._shadows = tuple(shadows)
        self._clock = clock
        self._served: dict[str, Served] = {}
        self._refused: dict[str, tuple[float, str]] = {}  # model -> until when, why
        self._labels: dict[str, tuple[float, tuple[str, ...]]] = {}

    def bundle(self, model: str) -> Served:
        """Raises BundleError if there is no bundle, it is damaged, or it forecasts another quantity."""
        if model in self._served:
            return self._served[model]
        until_s, reason = self._refused.get(model, (0.0, ""))
        if self._clock() >= until_s:
            try:
                self._served[model] = self._read(model)
                return self._served[model]
            except BundleError as error:
                if str(error) != reason:
                    get_logger().warning("model not scored", model=model, reason=str(error))
                reason = str(error)
            self._refused[model] = (self._clock() + LOOK_AGAIN_S, reason)
        raise BundleError(reason)

    def shadows_of(self, name: str) -> tuple[str, ...]:
        """ "NAME/VERSION" of each."""
        until_s, labelled = self._labels.get(name, (0.0, ()))
        if self._clock() >= until_s:
            labelled = self._labelled(name)
            self._labels[name] = (self._clock() + LOOK_AGAIN_S, labelled)
        return (*labelled, *(shadow for shadow in self._shadows if shadow not in labelled))

    def _read(self, model: str) -> Served:
        name, _, version = model.rpartition("/")
        if not _is_folder_name(name) or not _is_folder_name(version):
            raise BundleError(f"model {model!a}: no name of a folder")
        manifest, graph = read_bundle(self._models_dir / name / version)
        manifest.require_trained("volcast monitor")
        horizon_s = manifest.label.horizon_s if manifest.forecast is None else manifest.forecast.horizon_s
        step_s = self._target.step_s if manifest.forecast is None else manifest.forecast.step_s
        if (horizon_s, step_s) != (self._target.horizon_s, self._target.step_s):
            raise BundleError(
                f"model {model}: it forecasts {horizon_s:g} s on a grid of {step_s:g} s, outcomes are of "
                f"{self._target.horizon_s} s on a grid of {self._target.step_s} s"
            )
        return Served(manifest, graph)

    def _labelled(self, name: str) -> tuple[str, ...]:
        if not _is_folder_name(name):
            return ()
        try:
            labels = ModelStore(self._models_dir, name).labels()
        except InputError as error:
            get_logger().warning("labels not read", model=name, reason=str(error))
            return ()
        return () if labels is None else tuple(f"{name}/{version}" for version in labels.shadow)


def _is_folder_name(text: str) -> bool:
    return bool(text) and not text.startswith(".") and "/" not in text and "\0" not in text
