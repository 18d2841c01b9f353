"""What a retraining does next, decided from what there is: no file, no clock of its own.

One call is one step, so that a job which runs every hour walks the loop and a job that ran twice does nothing
twice: new data makes a candidate, a candidate that has been a shadow for long enough becomes champion.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from fcntl import LOCK_EX, LOCK_NB, flock
from os import O_CLOEXEC, O_CREAT, O_RDWR, close, open
from pathlib import Path

from common.errors import InputError, VolcastError
from training.shipping.tracking.record import Run

BUSY_EXIT = 4
LOCK_FILE = ".retrain.lock"


class BusyError(VolcastError):
    """Another retraining is under way."""

    exit_code = BUSY_EXIT


class Step(StrEnum):
    TRAIN = "train"  # data that no run has seen
    JUDGE = "judge"  # a run of this very data is kept, and was never before callers: an earlier call stopped there
    WAIT = "wait"  # a candidate is a shadow, not yet for long enough
    PROMOTE = "promote"  # a candidate has been a shadow for long enough
    NOTHING = "nothing"  # this data was trained on, judged and served or refused


@dataclass(frozen=True, slots=True)
class State:
    """What there is when a retraining begins."""

    key: str  # of the data, code and settings at hand
    run: Run | None  # the latest run of that key
    refused: bool  # by the gate, as it stands written
    version: str  # of the run's bundle below the models folder; "": not there
    candidate: str  # version that is a shadow or canary; "": none
    candidate_age_s: float
    stable: str


def next_step(state: State, shadow_s: float) -> Step:
    """shadow_s: how long a candidate is watched before it may become champion; 0: not at all."""
    if state.candidate and state.candidate != state.stable:
        return Step.PROMOTE if state.candidate_age_s >= shadow_s else Step.WAIT
    if state.run is None:
        return Step.TRAIN
    if state.refused or state.version:
        return Step.NOTHING
    return Step.JUDGE


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Raises BusyError at once where another process holds the folder; a killed one holds nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = open(folder / LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from None
    try:
        _lock(descriptor)
        yield
    finally:
        close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        raise BusyError("another retraining is under way") from None


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """What the serving side counted of a shadow (docs/models.md)."""

    rows: float
    failed: float
    dropped: float


def shadow_report(metrics: str, name: str, version: str) -> ShadowReport:
    """Reads Prometheus text. metrics: what the server's /metrics says."""

    def total(metric: str) -> float:
        wanted = (f'model="{name}"', f'version="{version}"')
        lines = (line for line in metrics.splitlines() if line.startswith(metric + "{"))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(one in line for one in wanted))

    prefix = "volcast_server_shadow_"
    return ShadowReport(
        total(f"{prefix}rows_total"), total(f"{prefix}failed_rows_total"), total(f"{prefix}dropped_rows_total")
    )


def shadow_objections(report: ShadowReport, least_rows: int) -> list[str]:
    """Why a shadow may not be promoted by what was counted of it."""
    found = []
    if report.rows < least_rows:
        found.append(f"it scored {report.rows:,.0f} rows as a shadow, at least {least_rows:,} are asked for")
    if report.failed > 0:
        found.append(f"it could not score {report.failed:,.0f} rows as a shadow")
    return found
