"""From a training run to what a server serves: evidence computed anew, the gate, then three writes in order.

Bundle first, labels second, alias last. Whoever is killed in between leaves a folder that serves what it served
before, or all of what is new; the same command again finishes the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.bundle import Manifest, read_bundle
from common.check import Check
from common.errors import GateError, InputError, UnavailableError, UsageError
from common.labels import CanaryLabel, Labels
from common.model_store import History, ModelStore, Moved, Reign, Role
from common.paired_difference import why_unproven
from training.judging import gate
from training.judging.gate import Limits
from training.judging.scored_part import Scored
from training.problem.rows import Rows
from training.shipping.aliases import VERSION_NOTE, Registry, run_of_bundle
from training.shipping.onnx_model import OnnxModel
from training.shipping.tracking.record import BUNDLE, TRAINED, Run, find_run, read_evidence, read_run
from training.shipping.trained_model_io import TRAINED_FILE, TREES_FILE, read_trained, require_schema


@dataclass(frozen=True, slots=True)
class Judged:
    """A run that stood before the gate."""

    folder: Path
    run: Run
    manifest: Manifest
    model: bytes
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def require(self) -> None:
        """Raises GateError with every reason where a check did not pass."""
        reasons = gate.refusals(self.checks)
        if reasons:
            raise GateError(f"{self.manifest.name}, run {self.run.id}", reasons)


def judge(folder: Path, store: ModelStore, limits: Limits) -> Judged:
    """Asks the run's own artifacts again, and the gate. Raises InputError where they cannot be read."""
    run = read_run(folder)
    manifest, model = read_bundle(folder / BUNDLE)
    evidence = read_evidence(folder)
    if not evidence.parts:
        raise InputError(f"run {folder}: it kept no scored part")
    exported = probabilities(model, evidence.rows.features)
    trained = read_trained(folder / TRAINED)
    require_schema(trained, manifest.feature_schema())
    if (trained.form.kind, trained.form.columns) != (manifest.kind, manifest.inputs):
        raise InputError(
            f"run {folder}: the trained form is {trained.form.kind} of {', '.join(trained.form.columns)}, the manifest "
            f"says {manifest.kind} of {', '.join(manifest.inputs)}"
        )
    final = rows_of(evidence.rows, evidence.parts[-1])
    candidate = gate.Candidate(
        manifest=manifest,
        parts=evidence.parts,
        exported=exported,
        trained=trained.probabilities(evidence.rows.features),
        final_exported=exported[final],
        latency_us=OnnxModel(model).one_row_us(evidence.rows.features[:1]),
        champion=_champion(store, manifest, evidence.rows.take(final)),
    )
    return Judged(folder, run, manifest, model, gate.judge(candidate, limits))


def _champion(store: ModelStore, manifest: Manifest, rows: Rows) -> gate.Champion | None:
    labels = store.effective_labels()
    if labels is None or labels.stable == store.find(manifest):
        return None  # nothing is served, or the candidate itself
    served, model = read_bundle(store.path(labels.stable))
    schema = served.feature_schema()
    known = set(schema.names) <= set(rows.schema.names)
    answers = probabilities(model, rows.columns(schema.names)) if known else None
    proven = not why_unproven(served.kind, served.walk_forward)
    return gate.Champion(labels.stable, schema, served.training.end_ns, answers, proven)


def rows_of(rows: Rows, part: Scored) -> NDArray[np.int64]:
    """The numbers of a part's rows among all rows. Raises InputError where one is not among them."""
    products = int(max(rows.product.max(initial=0), part.product.max(initial=0))) + 1
    start = int(min(rows.time_ns[0], part.time_ns[0]))
    keys = (rows.time_ns - start) * products + rows.product
    wanted = (part.time_ns - start) * products + part.product
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    found: NDArray[np.int64] = order[at]
    if not np.array_equal(keys[found], wanted):
        raise InputError(f"evidence: {part.part} has rows that the run did not keep")
    return np.sort(found)


def probabilities(model: bytes, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """What ONNX Runtime says of (rows, features), (rows,). Raises BundleError."""
    return OnnxModel(model).probabilities(features)


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

    Raises GateError where the gate refuses it, UsageError where the run made another name's model,
    UnavailableError where the registry is away before anything was changed, InputError where the disk refuses.
    registry: None leaves the aliases alone.
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
        version = store.put(judged.manifest, judged.model, trained_beside(judged.folder))
        before = store.labels()
        # The first of a name is stable, whatever it was meant for: somebody has to answer.
        role = "champion" if before is None else role
        labels = _relabelled(before, version, role, canary_share)
        changed = labels != before
        previous = before.stable if before is not None and before.stable != version else ""
        if changed:
            # Before the labels: an entry that came to nothing is passed over, a missing one could not be gone back.
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
    """The folder of the run that a command names. Raises UsageError where there is none."""
    if (version is None) == (run is None):
        raise UsageError("name a VERSION of the models folder, or a run with --run")
    if run is not None:
        found = find_run(runs_dir, run)
        if found is None:
            raise UsageError(f"no run {run!r} in {runs_dir} (volcast models list; `sync --fetch RUN` brings MLflow's)")
        return found
    assert version is not None
    found = run_of_bundle(store.path(version), runs_dir)
    if found is None:
        raise UsageError(
            f"model {store.name}, version {version}: no run in {runs_dir} made it, so there is no evidence to judge"
        )
    return found


def trained_beside(folder: Path) -> dict[str, bytes]:
    """The trained form, to go beside the bundle: no server reads it, and `verify` and `infer` compare with it."""
    files = (folder / TRAINED / name for name in (TRAINED_FILE, TREES_FILE))
    return {path.name: path.read_bytes() for path in files if path.is_file()}
