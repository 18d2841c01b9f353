"""Evidently's report on two stretches of rows, as HTML that stands alone and as JSON.

Evidently takes seconds to import and brings pandas, so it is imported here, when a report is asked for, and by
nothing that serves. Its columns are judged by our PSI, registered as a test of its own: its plots, our figures.
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

PLOTTED_ROWS = 20_000  # of each stretch: the HTML holds what its plots are drawn from
# Evidently reports its use to its makers unless this is set.
os.environ.setdefault("DO_NOT_TRACK", "1")


def write_report(reference: Stretch, current: Stretch, summary: DriftSummary, folder: Path, stem: str) -> list[Path]:
    """Writes stem.html and stem.json below folder and gives both; raises InputError where that cannot be done."""
    html, json = folder / f"{stem}.html", folder / f"{stem}.json"
    known = {one.column: one.psi for one in summary.columns if one.psi is not None}
    if not known:
        raise InputError(f"{current.name}: no column to report on: each is empty, here or in {reference.name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, Evidently and pydantic among themselves
        snapshot = _run(reference, current, known, summary.threshold)
        try:
            # Written beside and renamed: a full disk leaves no half of a report under its name.
            for path, save in ((html, snapshot.save_html), (json, snapshot.save_json)):
                unfinished = path.with_name(f".{path.name}.unfinished")
                save(str(unfinished))
                unfinished.replace(path)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return [html, json]


def _run(reference: Stretch, current: Stretch, known: Mapping[str, float], threshold: float) -> Any:
    from evidently import DataDefinition, Dataset, Report  # type: ignore[import-untyped]
    from evidently.presets import DataDriftPreset, DataSummaryPreset  # type: ignore[import-untyped]

    columns = list(known)
    test = _our_psi(known)
    definition = DataDefinition(numerical_columns=columns)
    report = Report(
        [
            DataDriftPreset(columns=columns, num_method=test, num_threshold=threshold, drift_share=0.5),
            DataSummaryPreset(columns=columns),
        ],
        include_tests=True,
    )
    stretches = [Dataset.from_pandas(_frame(one, columns), data_definition=definition) for one in (current, reference)]
    return report.run(*stretches, name=f"{current.name} against {reference.name}")


def _our_psi(known: Mapping[str, float]) -> str:
    """Evidently's name for a test that says what is known of all rows, whatever rows the report plots."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest  # type: ignore[import-untyped]
    from evidently.legacy.core import ColumnType  # type: ignore[import-untyped]

    def test(reference: Any, current: Any, kind: Any, threshold: float) -> tuple[float, bool]:
        return known[current.name], known[current.name] >= threshold

    name = "psi_deciles"
    register_stattest(StatTest(name, "PSI (deciles)", [ColumnType.Numerical]), default_impl=test)
    return name


def _frame(stretch: Stretch, columns: list[str]) -> Any:
    """Rows at even distances, and no more than the report can carry."""
    import pandas as pd

    rows = np.unique(np.linspace(0, len(stretch) - 1, min(len(stretch), PLOTTED_ROWS)).astype(np.int64))
    return pd.DataFrame({name: stretch.columns[name][rows] for name in columns})
