"""Small files of each kind that the loader reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.schema import CORE_1, FeatureSchema
from pipeline.archive import read_archive
from pipeline.features.table import compute_features
from pipeline.parquet import FeatureParquetWriter
from tests.training.synthetic import market
from training.problem.target import NS_PER_S

QUOTES_START_NS = 1_620_000_000 * NS_PER_S


def quotes_table(count: int = 1500, seed: int = 0) -> dict[str, Any]:
    """A quote every 5 s: ts_utc (datetime64[us]), bid, ask."""
    _, mid = market(count, seed=seed)
    time_us = (QUOTES_START_NS + np.arange(count) * 5 * NS_PER_S) // 1000
    return {"ts_utc": time_us.astype("datetime64[us]"), "bid": mid - 5.0, "ask": mid + 5.0}


def write_quotes(path: Path, table: dict[str, Any]) -> Path:
    pq.write_table(pa.table(table), path)
    return path


def write_features(path: Path, recording: Path, schema: FeatureSchema = CORE_1) -> Path:
    """As `volcast features` does."""
    rows = compute_features(read_archive([recording]), schema).rows
    with FeatureParquetWriter(path, schema=schema) as writer:
        writer.write(rows.product_ids, rows, rows.values, rows.warm)
    return path
