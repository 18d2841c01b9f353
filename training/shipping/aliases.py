"""Aliases of a model registry (champion, candidate) follow the labels in the models folder.

Nothing here needs a library for training: `volcast models rollback` imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from common.bundle import read_bundle
from common.model_store import ModelStore, Role
from training.shipping.tracking.record import runs

VERSION_NOTE = "volcast.version"  # tag of a registry's version: its number in the models folder


class Registry(Protocol):
    """MLflow's model registry as promotion uses it. Methods raise UnavailableError if it cannot be reached."""

    def upload(self, folder: Path) -> str:
        """Uploads a run, or the rest of an interrupted upload; returns the registry's version of its model."""

    def point(self, name: str, alias: Role, version: str | None) -> None:
        """Moves an alias to a version of the registry; None removes it."""

    def registered(self, name: str, run: str) -> str | None:
        """The registry's version of the model that a run made; None if there is none."""

    def note(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Writes tags on a version of the registry."""

    def noted(self, name: str, alias: Role, tag: str) -> str | None:
        """The value of a tag of the version under an alias; None if the alias or the tag does not exist."""


def reconcile(store: ModelStore, registry: Registry, runs_dir: Path) -> dict[str, str | None]:
    """Points the registry's aliases at the versions that labels.json names; alias -> the registry's version.

    If the registry does not know the bundle's run, or if the run is not kept here, an alias of another bundle is
    removed (None): its model does not answer any more.
    """
    labels = store.effective_labels()
    if labels is None:
        return {}
    candidate = labels.canary.version if labels.canary else next(iter(labels.shadow), None)
    moved: dict[str, str | None] = {}
    wanted: tuple[tuple[Role, str | None], ...] = (("champion", labels.stable), ("candidate", candidate))
    for role, version in wanted:
        folder = None if version is None else run_of_bundle(store.path(version), runs_dir)
        registered = None if folder is None else registry.registered(store.name, folder.name)
        if version is not None and registered is not None:
            registry.note(store.name, registered, {VERSION_NOTE: version})
            registry.point(store.name, role, registered)
            moved[role] = registered
        elif version is not None and registry.noted(store.name, role, VERSION_NOTE) not in (None, version):
            registry.point(store.name, role, None)
            moved[role] = None
    return moved


def run_of_bundle(bundle: Path, runs_dir: Path) -> Path | None:
    """The folder of the run with the same model and data as a bundle; None if no such run is kept here."""
    manifest, _ = read_bundle(bundle)
    for folder, run in reversed(list(runs(runs_dir))):
        if run.model_sha256 == manifest.model_sha256 and run.data_sha256 == manifest.data_sha256:
            return folder
    return None
