"""Shadow versions: score the rows of answered requests afterwards. Only the comparison is counted.

A request costs one look-up, and a copy of its rows if the model has a shadow. It never waits: if the queue is full,
rows are dropped and counted. The scoring thread polls the queue, since waking it up costs more than the copy.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import msgspec
import numpy as np

from server.core.arrays import Matrix, Vector
from server.core.dataplane import ModelRun
from server.core.models import Repository
from server.core.snapshot import Model, ModelSnapshot

MAX_WAITING_ROWS = 65_536  # 6 MB of the features of core/1
MAX_SCORED_ROWS = 256  # in one run of a shadow: joining them holds the interpreter's lock


@dataclass
class Agreement:
    """The comparison of a shadow with the answers, since the start."""

    rows: int = 0
    agreed_rows: int = 0  # both above or both below the threshold of their own version
    difference_sum: float = 0.0  # of absolute differences of the probabilities
    difference_max: float = 0.0
    dropped_rows: int = 0  # the queue was full
    failed_rows: int = 0  # the shadow could not score them, or had no finite probability

    def add(self, answered: Vector, answered_threshold: float, shadow: Vector, shadow_threshold: float) -> None:
        """answered, shadow: probabilities (rows,) of the same rows."""
        given = np.isfinite(answered)  # other rows were answered with an error
        finite = given & np.isfinite(shadow)
        self.failed_rows += int(given.sum() - finite.sum())
        answered, shadow = answered[finite], shadow[finite]
        if not shadow.size:
            return
        differences = np.abs(answered - shadow)
        self.agreed_rows += int(((answered >= answered_threshold) == (shadow >= shadow_threshold)).sum())
        self.difference_sum += float(differences.sum())
        self.difference_max = max(self.difference_max, float(differences.max()))
        self.rows += shadow.size


class AnsweredRows(msgspec.Struct, frozen=True):
    """Rows of answered requests: which model answered, its probabilities, and the shadow models to compare.

    sizes: the spike sizes (rows, 1) of the probabilities, in bps; None if the model that answered forecasts no
    distribution.
    """

    model: Model
    shadows: tuple[Model, ...]
    matrix: Matrix
    probabilities: Vector
    sizes: Matrix | None = None

    def part(self, rows: slice) -> AnsweredRows:
        sizes = None if self.sizes is None else self.sizes[rows]
        return AnsweredRows(self.model, self.shadows, self.matrix[rows], self.probabilities[rows], sizes)


class ShadowScorer:
    """Any thread may call `offer`; one thread calls `score_some`."""

    def __init__(self, repository: Repository, max_waiting_rows: int = MAX_WAITING_ROWS) -> None:
        self.agreements: dict[tuple[str, str], Agreement] = {}  # by name and version of the shadow
        self._repository = repository
        self._max_waiting_rows = max_waiting_rows
        self._waiting: list[AnsweredRows] = []
        self._waiting_rows = 0
        self._taken: list[AnsweredRows] = []  # removed from the queue, in reverse order; for the scoring thread only
        self._lock = threading.Lock()  # for a few appends; the scoring thread takes all rows at once and releases it

    @property
    def active(self) -> bool:
        """Whether any model has a shadow."""
        return bool(self._repository.snapshot.shadows)

    def offer(self, run: ModelRun) -> None:
        """Called after an answer. Queues copies of the run's rows, or nothing."""
        model, matrix = run.model, run.matrix
        snapshot: ModelSnapshot = self._repository.snapshot
        if not snapshot.shadows:
            return
        shadows = snapshot.shadows.get(model.name)
        # Nothing to compare: the caller selected the shadow itself, or a version with other features.
        if shadows is None or model in shadows or model.schema.hash != shadows[0].schema.hash:
            return
        rows = len(matrix)
        with self._lock:
            fits = self._waiting_rows + rows <= self._max_waiting_rows
            if fits:
                self._waiting_rows += rows
                sizes = None if run.sizes is None else run.sizes.copy()
                self._waiting.append(AnsweredRows(model, shadows, matrix.copy(), run.probabilities.copy(), sizes))
                return
            for shadow in shadows:
                self._agreement(shadow).dropped_rows += rows

    def score_some(self) -> int:
        """Scores up to MAX_SCORED_ROWS queued rows and returns their number."""
        if not self._taken:
            with self._lock:
                self._taken, self._waiting = self._waiting[::-1], []
        if not self._taken:
            return 0
        work = self._next()
        with self._lock:
            self._waiting_rows -= len(work.matrix)
        for shadow in work.shadows:
            self._score(work, shadow)
        return len(work.matrix)

    def _next(self) -> AnsweredRows:
        """The first queued rows that fit into one run: of one model, with the same shadows."""
        first = self._taken.pop()
        if len(first.matrix) > MAX_SCORED_ROWS:
            self._taken.append(first.part(slice(MAX_SCORED_ROWS, None)))
            return first.part(slice(MAX_SCORED_ROWS))
        together, rows = [first], len(first.matrix)
        while self._taken:
            after = self._taken[-1]
            rows += len(after.matrix)
            if after.model is not first.model or after.shadows != first.shadows or rows > MAX_SCORED_ROWS:
                break
            together.append(self._taken.pop())
        return AnsweredRows(
            first.model,
            first.shadows,
            np.concatenate([part.matrix for part in together]),
            np.concatenate([part.probabilities for part in together]),
            None
            if first.sizes is None
            else np.concatenate([part.sizes for part in together if part.sizes is not None]),
        )

    def _score(self, work: AnsweredRows, shadow: Model) -> None:
        if shadow.forecast is None:
            work = _at_default_size(work)
            if not len(work.matrix):
                return
        try:
            probabilities = _probabilities(work, shadow)
        except Exception:  # ONNX Runtime raises many kinds; no caller waits for this result
            probabilities = np.full(len(work.matrix), np.nan)
        if probabilities.shape != work.probabilities.shape:
            probabilities = np.full(len(work.matrix), np.nan)
        agreement = self._agreement(shadow)
        agreement.add(work.probabilities, work.model.threshold, probabilities, shadow.threshold)

    def _agreement(self, shadow: Model) -> Agreement:
        key = (shadow.name, shadow.version)
        return self.agreements.get(key) or self.agreements.setdefault(key, Agreement())


def _at_default_size(work: AnsweredRows) -> AnsweredRows:
    """The rows that a shadow without sizes can be compared on: answered for the default size of their model."""
    if work.sizes is None or work.model.forecast is None:
        return work
    default = work.sizes[:, 0] == work.model.forecast.spike_bps
    return AnsweredRows(work.model, work.shadows, work.matrix[default], work.probabilities[default])


def _probabilities(work: AnsweredRows, shadow: Model) -> Vector:
    """(rows,). A forecast model scores the sizes of the answers; without them, its default size."""
    if shadow.forecast is None or work.sizes is None:
        return shadow.predictor.predict(work.matrix)
    levels = np.empty((len(work.matrix), 0))
    return shadow.predictor.forecast(work.matrix, work.sizes, levels).in_range().probabilities
