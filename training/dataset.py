"""The former place of training.data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.data import Dataset, load

__all__ = ["Dataset", "read_dataset"]


def read_dataset(paths: Sequence[Path], horizon_s: int, sample_period_s: int) -> Dataset:
    return load(paths, horizon_s=horizon_s, sample_period_s=sample_period_s)
