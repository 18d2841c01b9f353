"""Shadow versions: scored on what was answered, after it was answered, and only counted.

The answer path pays for a look-up, and where the model has a shadow for a copy of its rows. It never
waits: where the queue is full, rows are dropped and counted. Nothing is woken up either, as the scoring
thread looks by itself: a wake-up costs more than the copy.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import msgspec
import numpy as np

from server.core.held import Held, Model
from server.core.models import Repository
from server.core.requests import Matrix, Vector

MAX_WAITING_ROWS = 65_536  # 6 MB of the features of core/1
ROWS_A_CALL = 256  # of one run of a shadow: putting them together holds the interpreter's lock


@dataclass
class Agreement:
    """How a shadow compares with what was answered, since the start."""

    rows: int = 0
    agreed_rows: int = 0  # on the same side of the threshold, each by its own
    difference_sum: float = 0.0  # of absolute differences of probability
    difference_max: float = 0.0
    dropped_rows: int = 0  # the queue was full
    failed_rows: int = 0  # the shadow could not score them, or had no finite probability

    def add(self, answered: Vector, answered_threshold: float, shadow: Vector, shadow_threshold: float) -> None:
        """answered, shadow: probabilities (rows,) of the same rows."""
        given = np.isfinite(answered)  # the others were answered with an error
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


class Answered(msgspec.Struct, frozen=True):
    """Rows that were answered: by which model, with which probabilities, and who is to be asked too."""

    model: Model
    shadows: tuple[Model, ...]
    matrix: Matrix
    probabilities: Vector


class Shadows:
    """Any thread may offer; one scores."""

    def __init__(self, repository: Repository, max_waiting_rows: int = MAX_WAITING_ROWS) -> None:
        self.agreements: dict[tuple[str, str], Agreement] = {}  # by name and version of the shadow
        self._repository = repository
        self._max_waiting_rows = max_waiting_rows
        self._waiting: list[Answered] = []
        self._waiting_rows = 0
        self._taken: list[Answered] = []  # by the thread that scores, last first
        self._lock = threading.Lock()  # held for a few appends; whoever scores takes all and lets go

    @property
    def wanted(self) -> bool:
        """Whether any model has a shadow."""
        return bool(self._repository.held.shadows)

    def offer(self, model: Model, matrix: Matrix, probabilities: Vector) -> None:
        """After an answer: matrix (rows, features), probabilities (rows,). Takes copies, or nothing at all."""
        held: Held = self._repository.held
        if not held.shadows:
            return
        shadows = held.shadows.get(model.name)
        # Rows that were asked of a shadow by its version, or of a version with other features, compare with nothing.
        if shadows is None or model in shadows or model.schema.hash != shadows[0].schema.hash:
            return
        rows = len(matrix)
        with self._lock:
            fits = self._waiting_rows + rows <= self._max_waiting_rows
            if fits:
                self._waiting_rows += rows
                self._waiting.append(Answered(model, shadows, matrix.copy(), probabilities.copy()))
                return
            for shadow in shadows:
                self._agreement(shadow).dropped_rows += rows

    def score_some(self) -> int:
        """Scores up to ROWS_A_CALL of the rows that wait; their number, 0 where none did."""
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

    def _next(self) -> Answered:
        """The rows at the front that one call can take: of one model with the same shadows."""
        first = self._taken.pop()
        if len(first.matrix) > ROWS_A_CALL:
            rest = Answered(first.model, first.shadows, first.matrix[ROWS_A_CALL:], first.probabilities[ROWS_A_CALL:])
            self._taken.append(rest)
            return Answered(first.model, first.shadows, first.matrix[:ROWS_A_CALL], first.probabilities[:ROWS_A_CALL])
        together, rows = [first], len(first.matrix)
        while self._taken:
            after = self._taken[-1]
            rows += len(after.matrix)
            if after.model is not first.model or after.shadows != first.shadows or rows > ROWS_A_CALL:
                break
            together.append(self._taken.pop())
        return Answered(
            first.model,
            first.shadows,
            np.concatenate([one.matrix for one in together]),
            np.concatenate([one.probabilities for one in together]),
        )

    def _score(self, work: Answered, shadow: Model) -> None:
        try:
            probabilities = shadow.predictor.predict(work.matrix)
        except Exception:  # whatever ONNX Runtime raises: nobody waits for this answer
            probabilities = np.full(len(work.matrix), np.nan)
        if probabilities.shape != work.probabilities.shape:
            probabilities = np.full(len(work.matrix), np.nan)
        agreement = self._agreement(shadow)
        agreement.add(work.probabilities, work.model.threshold, probabilities, shadow.threshold)

    def _agreement(self, shadow: Model) -> Agreement:
        key = (shadow.name, shadow.version)
        return self.agreements.get(key) or self.agreements.setdefault(key, Agreement())
