"""Evidently's report on two stretches of rows, as HTML without links to other hosts and as JSON.

Evidently takes seconds to import and brings pandas, so only a call imports it. Its test of a column is PSI over limit
(summary.py), which is above 1 if the column has drifted: the page and the table give the same verdict.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from training.drift.summary import DriftSummary, Stretch

PLOTTED_ROWS = 20_000  # of each stretch: the HTML holds the rows of its plots
# Evidently reports its use to its makers unless this is set.
os.environ.setdefault("DO_NOT_TRACK", "1")


def write_report(reference: Stretch, current: Stretch, summary: DriftSummary, folder: Path) -> list[Path]:
    """Writes evidently_report.html and .json below the folder, and returns both paths.

    Raises InputError if no judged column has numbers in both stretches, or if the files cannot be written.
    """
    html, json = (folder / f"evidently_report.{suffix}" for suffix in ("html", "json"))
    ratios = {
        each.column: each.psi / each.limit
        for each in summary.columns
        if each.judged and each.psi is not None and each.limit is not None
    }
    if not ratios:
        raise InputError(f"{current.name}: no column to report on: each is empty, here or in {reference.name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, Evidently and pydantic among themselves
        snapshot = _run(reference, current, ratios)
        try:
            # Written beside and renamed: a full disk leaves no half of a report under its name.
            for path, save in ((html, snapshot.save_html), (json, snapshot.save_json)):
                unfinished = path.with_name(f".{path.name}.unfinished")
                save(str(unfinished))
                unfinished.replace(path)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return [html, json]


def _run(reference: Stretch, current: Stretch, ratios: Mapping[str, float]) -> Any:
    from evidently import DataDefinition, Dataset, Report  # type: ignore[import-untyped]
    from evidently.presets import DataDriftPreset, DataSummaryPreset  # type: ignore[import-untyped]

    columns = [name for name in reference.columns if name in current.columns]
    definition = DataDefinition(numerical_columns=columns)
    drift = DataDriftPreset(
        columns=list(ratios),
        num_method=_registered(ratios),
        num_threshold=1.0,
        drift_share=1 / len(ratios),  # a single drifted column counts, as for the exit code
    )
    report = Report([drift, DataSummaryPreset(columns=columns)], include_tests=True)
    stretches = [
        Dataset.from_pandas(_frame(each, columns), data_definition=definition) for each in (current, reference)
    ]
    return report.run(*stretches, name=f"{current.name} against {reference.name}")


def _registered(ratios: Mapping[str, float]) -> str:
    """Evidently's name of a test that returns the ratio of all rows, although the report plots a part of them."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest  # type: ignore[import-untyped]
    from evidently.legacy.core import ColumnType  # type: ignore[import-untyped]

    def test(reference: Any, current: Any, kind: Any, threshold: float) -> tuple[float, bool]:
        return ratios[current.name], ratios[current.name] > threshold

    name = "psi_over_limit"
    register_stattest(StatTest(name, "PSI / limit", [ColumnType.Numerical]), default_impl=test)
    return name


def _frame(stretch: Stretch, columns: list[str]) -> Any:
    """Rows at even distances, at most PLOTTED_ROWS."""
    import pandas as pd

    rows = np.unique(np.linspace(0, len(stretch) - 1, min(len(stretch), PLOTTED_ROWS)).astype(np.int64))
    return pd.DataFrame({name: stretch.columns[name][rows] for name in columns})
