"""Whether a model may be promoted: a list of checks, each of which says what it found.

The core takes values and gives verdicts; it reads no file and asks no server. What it is given is computed
anew from what the run kept (training/shipping/promotion.py), not taken from what the manifest claims.

Every rule with its reason is in docs/promotion.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from common.bundle import Manifest
from common.check import Check
from common.errors import InputError
from common.paired_difference import PairedDifference
from common.schema import SCHEMAS, FeatureSchema
from training.judging.class_counts import MIN_ROWS_PER_CLASS
from training.judging.evaluation.blocks import DECISION_RESAMPLES, MIN_BLOCK_S, Blocks, block_s, interval
from training.judging.evaluation.figures import areas
from training.judging.paired_comparison import MIN_FOLDS, mean_pr_auc, paired_difference, usable_folds
from training.judging.scored_part import FINAL, Scored
from training.models import BASELINES, HAR, HAR_KINDS, KINDS
from training.models.linear import HAR_SCALES
from training.problem.leakage import SUSPICIOUS_PR_AUC
from training.problem.ticks import NS_PER_S

PARITY_LIMIT = 1e-5
REPORTED_TOLERANCE = 1e-3  # of PR-AUC: within PARITY_LIMIT, rows that are nearly tied may change places
HIGHEST_BASE_RATE = 0.5  # of the parts whose scores may betray a leak


@dataclass(frozen=True, slots=True)
class Limits:
    max_latency_us: float = 10.0
    champion_margin: float = 0.02  # of PR-AUC
    seed: int = 0  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Champion:
    """What is served now, asked about the candidate's final rows."""

    version: str
    schema: FeatureSchema
    trained_until_ns: int  # event time of the last row it learned from
    probabilities: NDArray[np.float64] | None  # (final rows,); None: the rows lack features it takes
    proven: bool  # HAR itself, or shown to be ahead of it on the folds of its own training


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model before the gate, and what its own artifacts say when they are asked again."""

    manifest: Manifest
    parts: Sequence[Scored]  # walk-forward folds in time order, then the final part
    exported: NDArray[np.float64]  # what model.onnx says of every row of the data set, (rows,)
    trained: NDArray[np.float64]  # what the trained form says of them
    final_exported: NDArray[np.float64]  # what model.onnx says of the final part, (final rows,)
    latency_us: float  # CPU time of one row in ONNX Runtime (OnnxModel.one_row_us)
    champion: Champion | None = None  # None: nothing is served under this name


def judge(candidate: Candidate, limits: Limits) -> tuple[Check, ...]:
    """Every check, in the order in which they are told. All must pass; none is left out because one failed."""
    return (
        _schema(candidate.manifest, candidate.champion),
        _parity(candidate.exported, candidate.trained),
        _reported(candidate),
        _purged(candidate),
        _leak(candidate),
        _baselines(candidate, limits),
        _probabilities(candidate),
        _champion(candidate, limits),
        _latency(candidate.latency_us, limits),
    )


def refusals(checks: Sequence[Check]) -> list[str]:
    return [f"{check.name}: {check.text}" for check in checks if not check.passed]


def _schema(manifest: Manifest, champion: Champion | None) -> Check:
    mine = manifest.schema
    known = {schema.hash for schema in SCHEMAS.values()}
    if mine.hash not in known:
        served = ", ".join(f"{name} {schema.hash}" for name, schema in SCHEMAS.items())
        return Check("schema", False, f"{mine.name} {mine.hash} is known to no server; known: {served}")
    if champion is not None and champion.schema.hash != mine.hash:
        return Check(
            "schema",
            False,
            f"takes {mine.name}, champion {champion.version} takes {champion.schema.name}: callers of this name send "
            "the latter; train it under another name",
        )
    return Check("schema", True, f"{mine.name} {mine.hash} is known to the server")


def _parity(exported: NDArray[np.float64], trained: NDArray[np.float64]) -> Check:
    if exported.shape != trained.shape or len(trained) == 0:
        return Check("parity", False, f"the ONNX form gives {len(exported):,} probabilities for {len(trained):,} rows")
    difference = np.abs(exported - trained)
    difference[np.isnan(difference)] = np.inf
    worst = int(np.argmax(difference))
    error, rows = float(difference[worst]), len(trained)
    if error > PARITY_LIMIT:
        beyond = int(np.count_nonzero(difference > PARITY_LIMIT))
        return Check(
            "parity",
            False,
            f"the ONNX form differs from the trained form on {beyond:,} of {rows:,} rows, by {error:.3g} on row "
            f"{worst}; at most {PARITY_LIMIT:g} is allowed",
        )
    return Check("parity", True, f"ONNX and trained form differ by {error:.2g} at most, on {rows:,} rows")


def _reported(candidate: Candidate) -> Check:
    """What was evaluated is what ships: the manifest's score is that of model.onnx on the final rows."""
    manifest, final = candidate.manifest, candidate.parts[-1]
    claimed = manifest.metrics.get(manifest.kind, {}).get("pr_auc")
    if claimed is None:
        return Check("reported", False, f"the manifest has no PR-AUC of {manifest.kind} on the final part")
    if final.part != FINAL or not _both_classes(final.y):
        return Check("reported", False, "the run kept no final part with both classes")
    found = _pr_auc(final.y, candidate.final_exported)
    if not abs(found - claimed) <= REPORTED_TOLERANCE:
        return Check(
            "reported",
            False,
            f"the manifest claims a PR-AUC of {claimed:.6g} on the final part, model.onnx scores {found:.6g} there",
        )
    return Check("reported", True, f"final PR-AUC {found:.4f}, as the manifest says")


def _purged(candidate: Candidate) -> Check:
    """No training label reaches into the rows that tested it, and the parts follow one another in time."""
    manifest, parts = candidate.manifest, candidate.parts
    embargo_s = manifest.parameters.get("embargo_s", manifest.label.horizon_s)
    distance_s = (int(parts[-1].time_ns[0]) - manifest.training.end_ns) / NS_PER_S
    if distance_s <= max(embargo_s, manifest.label.horizon_s):
        return Check(
            "purged",
            False,
            f"the last training row is {distance_s:.1f} s before the final part; labels and features reach over "
            f"{max(embargo_s, manifest.label.horizon_s):g} s",
        )
    for before, after in itertools.pairwise(parts):
        if int(before.time_ns[-1]) >= int(after.time_ns[0]):
            return Check("purged", False, f"{before.part} and {after.part} overlap in time")
    return Check("purged", True, f"{len(parts) - 1} folds and the final part in time order, {distance_s:.0f} s apart")


def _leak(candidate: Candidate) -> Check:
    kind = candidate.manifest.kind
    # Where most rows are spikes, a high score is no feat: a constant gets the base rate.
    rare = [one for one in candidate.parts if _both_classes(one.y) and np.mean(one.y) <= HIGHEST_BASE_RATE]
    scores = {one.part: _pr_auc(one.y, one.probabilities[kind]) for one in rare if kind in one.probabilities}
    final = candidate.parts[-1]
    if any(one is final for one in rare):
        scores["the final part, by model.onnx"] = _pr_auc(final.y, candidate.final_exported)
    where = max(scores, key=lambda part: scores[part], default="")
    if where and scores[where] > SUSPICIOUS_PR_AUC:
        return Check(
            "leak",
            False,
            f"{kind} scores a PR-AUC of {scores[where]:.3f} on {where}; above {SUSPICIOUS_PR_AUC} a feature knows the "
            "future (honest scores on this problem are 0.1 to 0.7)",
        )
    return Check("leak", True, f"highest PR-AUC {scores.get(where, 0.0):.3f}, not above {SUSPICIOUS_PR_AUC}")


def _baselines(candidate: Candidate, limits: Limits) -> Check:
    """A model beats every baseline, and HAR by more than chance; HAR itself only must not be shown to be behind."""
    kind = candidate.manifest.kind
    folds = [one for one in candidate.parts[:-1] if kind in one.probabilities]
    count = len(usable_folds(folds))
    if count < MIN_FOLDS:
        return Check(
            "baselines",
            False,
            f"{count} of {len(folds)} walk-forward folds hold {MIN_ROWS_PER_CLASS} spikes and as many other rows, "
            f"{MIN_FOLDS} are needed to say that a model beats a baseline; longer data is needed",
        )
    rivals = [one for one in BASELINES if one != kind]
    missing = [one for one in rivals if not all(one in fold.probabilities for fold in folds)]
    if missing:
        return Check("baselines", False, f"the run kept no walk-forward of {', '.join(missing)}")
    if not all(np.isfinite(fold.probabilities[one]).all() for fold in folds for one in (kind, *rivals)):
        return Check("baselines", False, "the run kept probabilities that are no numbers")
    mine, theirs = mean_pr_auc(folds, kind), {one: mean_pr_auc(folds, one) for one in rivals}
    told = ", ".join(f"{one} {score:.4f}" for one, score in theirs.items())
    found = f"mean PR-AUC over {count} of {len(folds)} purged folds {mine:.4f}, {told}"
    if kind in HAR_KINDS:
        if not _looks_as_har(candidate.manifest):
            return Check("baselines", False, f"{', '.join(candidate.manifest.inputs)} are no inputs of {kind}")
        behind = [one for one in rivals if _difference(candidate, folds, one, limits).significantly_worse]
        if behind:
            return Check("baselines", False, f"behind {', '.join(behind)} by more than chance: {found}")
        return Check("baselines", True, f"{found}; {kind} is what ships where no model is shown to beat HAR")
    beaten_by = [one for one, score in theirs.items() if not mine > score]
    if beaten_by:
        return Check("baselines", False, f"does not beat {', '.join(beaten_by)}: {found}")
    ahead = _difference(candidate, folds, HAR, limits)
    if not ahead.significantly_better:
        return Check("baselines", False, f"not shown to beat {HAR}, so HAR ships: {found}; on {HAR} {ahead}")
    return Check("baselines", True, f"{found}; on {HAR} {ahead}")


def _looks_as_har(manifest: Manifest) -> bool:
    """A name alone would open the gate to anything."""
    try:
        allowed = KINDS[manifest.kind].columns(manifest.feature_schema())
    except InputError:
        return False
    return len(manifest.inputs) == HAR_SCALES and set(manifest.inputs) <= set(allowed)


def _difference(candidate: Candidate, folds: Sequence[Scored], rival: str, limits: Limits) -> PairedDifference:
    manifest = candidate.manifest
    return paired_difference(folds, manifest.kind, rival, _block_s(manifest), limits.seed)


def _block_s(manifest: Manifest) -> float:
    return block_s(manifest.parameters.get("embargo_s", MIN_BLOCK_S))


def _probabilities(candidate: Candidate) -> Check:
    """Ranks are half of it: who is told a probability must be better off than with the rate of spikes."""
    final = candidate.parts[-1]
    if not np.isfinite(candidate.final_exported).all():
        return Check("probabilities", False, "model.onnx gives no number for some rows of the final part")
    constant = float(np.mean(np.square(final.y - final.climatology)))
    brier = float(np.mean(np.square(final.y - candidate.final_exported)))
    skill = 1 - brier / constant if constant > 0 else float("-inf")
    found = f"Brier skill {skill:+.4f} against climatology's {final.climatology:.3f} on the final {len(final):,} rows"
    return Check("probabilities", skill > 0, found if skill > 0 else f"worse than a constant: {found}")


def _champion(candidate: Candidate, limits: Limits) -> Check:
    champion, final = candidate.champion, candidate.parts[-1]
    if champion is None:
        return Check("champion", True, "no other version is served under this name")
    if champion.probabilities is None:
        return Check("champion", False, f"champion {champion.version} takes features that the run's rows lack")
    # What the champion learned from would flatter it; where nothing else is left, it may be flattered.
    unseen = final.time_ns > champion.trained_until_ns + int(candidate.manifest.label.horizon_s * NS_PER_S)
    said = ""
    if np.count_nonzero(final.y[unseen]) < MIN_ROWS_PER_CLASS:
        unseen = np.ones(len(final), dtype=np.bool_)
        said = ", which the champion has trained on in part"
    y = final.y[unseen]
    if not _both_classes(y):
        return Check("champion", False, "the final part holds one class: the two cannot be compared")
    mine, theirs = candidate.final_exported[unseen], champion.probabilities[unseen]
    if not (np.isfinite(mine).all() and np.isfinite(theirs).all()):
        return Check("champion", False, f"it or champion {champion.version} gives no number for some rows")
    blocks = Blocks.of(final.time_ns[unseen], int(_block_s(candidate.manifest) * NS_PER_S))
    draws = blocks.draws(DECISION_RESAMPLES, limits.seed)
    samples = [areas(y, one, blocks.of_row, draws)[0] for one in (mine, theirs)]
    found_interval = interval(samples[0] - samples[1])
    if found_interval is None:
        return Check("champion", False, f"spikes are in too few of {blocks.count} blocks of time: no interval")
    low, high = found_interval
    point = _pr_auc(y, mine) - _pr_auc(y, theirs)
    found = (
        f"PR-AUC {point:+.4f} against champion {champion.version}, paired 95 % interval {low:+.4f} to {high:+.4f}, on "
        f"{len(y):,} rows{said}"
    )
    if high < 0:
        return Check("champion", False, f"worse: {found}")
    # HAR needs no proof against a champion that was never shown to be ahead of it: that one would not pass today.
    if low < -limits.champion_margin and (champion.proven or candidate.manifest.kind not in HAR_KINDS):
        return Check(
            "champion", False, f"not shown to be no worse: {found}; it must stay above {-limits.champion_margin:+g}"
        )
    return Check("champion", True, found)


def _latency(latency_us: float, limits: Limits) -> Check:
    found = f"one row takes {latency_us:.1f} µs in ONNX Runtime, the budget is {limits.max_latency_us:g} µs"
    return Check("latency", latency_us <= limits.max_latency_us, found)


def _both_classes(y: NDArray[np.int8]) -> bool:
    return len(y) > 0 and bool(y.min() != y.max())


def _pr_auc(y: NDArray[np.int8], probability: NDArray[np.float64]) -> float:
    if not np.isfinite(probability).all():
        return float("nan")
    return float(average_precision_score(y, probability))
