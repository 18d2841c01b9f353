"""From a training run to a served version: the gate, then three writes in order.

Bundle first, labels second, alias last. If a promotion is killed in between, the folder serves either the version that
it served before, or the new version; the same command again makes the remaining writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.bundle import Manifest, read_bundle
from common.check import Check
from common.errors import GateError, UnavailableError, UsageError
from common.labels import CanaryLabel, Labels
from common.model_store import History, ModelStore, Moved, Reign, Role
from common.schema import SCHEMAS
from training.judging.gate import GateLimits, refusals
from training.shipping import run_checks
from training.shipping.aliases import VERSION_NOTE, Registry, run_of_bundle
from training.shipping.leak_checks import leak_checks
from training.shipping.run_checks import Candidate, Champion
from training.shipping.tracking.record import BUNDLE, TRAINED, Run, find_run, read_evidence, read_run
from training.shipping.trained_form import form_beside, read_trained


@dataclass(frozen=True, slots=True)
class Judged:
    """A run and the verdict of the gate."""

    folder: Path
    run: Run
    manifest: Manifest
    model: bytes
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def require(self) -> None:
        """Raises GateError with every reason if a check did not pass."""
        reasons = refusals(self.checks)
        if reasons:
            raise GateError(f"{self.manifest.name}, run {self.run.id}", reasons)


def judge(folder: Path, store: ModelStore, limits: GateLimits) -> Judged:
    """Runs every check of the gate on a run's own artifacts. Raises InputError if they cannot be read."""
    run = read_run(folder)
    manifest, model = read_bundle(folder / BUNDLE)
    trained, champion = read_trained(folder / TRAINED), _champion(store, manifest)
    candidate = Candidate(manifest, model, trained, read_evidence(folder), champion)
    run_checks.require_kind(trained, manifest, candidate.rows.schema)
    schema = run_checks.schema(manifest, champion)
    checks = [schema]
    if candidate.rows.schema.hash in {each.hash for each in SCHEMAS.values()}:
        checks += run_checks.figures(candidate, limits)
        checks += leak_checks(candidate, run.look_ahead, limits.seed)
    return Judged(folder, run, manifest, model, tuple(checks))


def _champion(store: ModelStore, manifest: Manifest) -> Champion | None:
    labels = store.effective_labels()
    if labels is None or labels.stable == store.find(manifest):
        return None  # no version is served, or the candidate itself
    return Champion(labels.stable, *read_bundle(store.path(labels.stable)))


def promote(
    judged: Judged,
    store: ModelStore,
    registry: Registry | None,
    role: Role,
    *,
    canary_share: float | None = None,
    now_ms: int,
) -> Moved:
    """Makes a run's model the champion (stable), or a candidate (shadow, or canary with a share).

    Raises GateError if the gate refuses the run, UsageError if the run is of a model of another name, UnavailableError
    if the registry is not available, before any change, InputError if the disk refuses. registry: None leaves the
    aliases alone.
    """
    if judged.run.name != store.name:
        raise UsageError(f"run {judged.run.id} made {judged.run.name!r}, not {store.name!r}: train it under that name")
    judged.require()
    registered = None if registry is None else registry.upload(judged.folder)
    with store.locked():
        store.pin()
        if role == "candidate" and store.labels() is None and (versions := store.versions()):
            raise UsageError(
                f"model {store.name}: no version is stable, and the versions {', '.join(versions)} have no order; "
                "name the stable one in labels.json first"
            )
        version = store.put(judged.manifest, judged.model, form_beside(judged.folder / TRAINED))
        before = store.labels()
        # The first version of a name is stable in either role: a version has to answer.
        role = "champion" if before is None else role
        labels = _relabelled(before, version, role, canary_share)
        changed = labels != before
        previous = before.stable if before is not None and before.stable != version else ""
        if changed:
            # Before the labels: rollback skips an entry without effect, and needs every other entry.
            store.write_history(_noted(store.history(), judged.run.id, version, previous, role, now_ms))
            store.write_labels(labels)
        if registry is not None and registered is not None:
            try:
                _point(registry, store.name, role, version, registered)
            except UnavailableError as error:
                raise UnavailableError(f"version {version} is the {role} now, and served; {error}") from None
    return Moved(store.name, version, role, labels, changed, previous)


def _relabelled(before: Labels | None, version: str, role: Role, canary_share: float | None) -> Labels:
    if before is None:
        return Labels(version)
    if role == "champion":
        return before.with_stable(version)
    if before.stable == version:
        raise UsageError(f"version {version} is the champion already; it cannot be a candidate beside itself")
    others = before.without(version)
    if canary_share is None:
        return Labels(others.stable, others.canary, (version,))
    return Labels(others.stable, CanaryLabel(version, canary_share), others.shadow)


def _noted(history: History, run: str, version: str, previous: str, role: Role, now_ms: int) -> History:
    if role == "candidate":
        return History(history.champions, version, now_ms)
    reigns = (*history.champions, Reign(version, previous, run, now_ms)) if previous else history.champions
    return (
        History(reigns)
        if history.candidate == version
        else History(reigns, history.candidate, history.candidate_since_ms)
    )


def _point(registry: Registry, name: str, role: Role, version: str, registered: str) -> None:
    registry.note(name, registered, {VERSION_NOTE: version})
    registry.point(name, role, registered)
    if role == "champion":
        registry.point(name, "candidate", None)


def chosen_run(store: ModelStore, runs_dir: Path, version: str | None, run: str | None) -> Path:
    """The folder of the run that a command names. Raises UsageError if there is no such run."""
    if (version is None) == (run is None):
        raise UsageError("name a VERSION of the models folder, or a run with --run")
    if run is not None:
        folder = find_run(runs_dir, run)
        if folder is None:
            raise UsageError(f"no run {run!r} in {runs_dir} (volcast models list; `sync --fetch RUN` brings MLflow's)")
        return folder
    assert version is not None
    folder = run_of_bundle(store.path(version), runs_dir)
    if folder is None:
        raise UsageError(
            f"model {store.name}, version {version}: no run in {runs_dir} made it, so there is no evidence to judge"
        )
    return folder
