"""Whether rows can be computed from the ticks up to their time: a check for training, since a run keeps no ticks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.check import Check
from pipeline.features.columns import GAP, TickColumns
from pipeline.features.engine import FeatureEngine
from training.judging import leaks
from training.problem.data.dataset import RecordedTicks
from training.problem.forecast_rows import ForecastRows
from training.problem.target import Floats, Ints


def look_ahead(rows: ForecastRows, ticks: Sequence[RecordedTicks], seed: int) -> Check:
    """Computes sampled rows again and compares the bits; and compares the times of all rows with those of the ticks.

    ticks: of each recording, by its number in rows.recordings.
    """
    event_times: dict[int, Ints] = {}
    for number, recorded in enumerate(ticks):
        for code, name in enumerate(recorded.products):
            of_product = (recorded.columns.product == code) & (recorded.columns.kind != GAP)
            series = number * len(rows.products) + rows.products.index(name)
            event_times[series] = np.unique(recorded.columns.event_time_ns[of_product])
    order = leaks.time_order(rows.time_ns, rows.recording * len(rows.products) + rows.product, event_times)
    if not order.passed:
        return Check("look-ahead", False, order.text)
    sampled = leaks.sampled_rows(len(rows), seed)
    again = recomputed(rows, ticks, sampled)
    places = {row: place for place, row in enumerate(sampled.tolist())}
    return leaks.look_ahead(rows.schema.names, rows.features, sampled, lambda row: again[places[row]])


def recomputed(rows: ForecastRows, ticks: Sequence[RecordedTicks], sampled: Ints) -> Floats:
    """Features of sampled rows (k,), (k, features), by an engine that has seen the ticks up to the row only.

    Of several ticks at the time of a row, the tick that gives the row's bits counts, else the last.
    """
    values = np.full((len(sampled), len(rows.schema)), np.nan)
    for number, recorded in enumerate(ticks):
        places = np.flatnonzero(rows.recording[sampled] == number).tolist()
        candidates = [_ticks_of(recorded, rows, int(sampled[place])) for place in places]
        known = _values_at(recorded.columns, FeatureEngine(rows.schema), candidates)
        for place, ticks_of_row in zip(places, candidates, strict=True):
            row = rows.features[sampled[place]]
            recent = [known[tick] for tick in ticks_of_row]
            values[place] = next((each for each in recent if np.array_equal(each, row)), recent[-1])
    return values


def _values_at(columns: TickColumns, engine: FeatureEngine, candidates: Sequence[Sequence[int]]) -> dict[int, Floats]:
    """Features at each of the candidate ticks: the engine gets the ticks up to a row's last candidate at a time."""
    wanted = np.unique([tick for ticks_of_row in candidates for tick in ticks_of_row])
    known: dict[int, Floats] = {}
    done = 0
    for stop in np.unique([ticks_of_row[-1] + 1 for ticks_of_row in candidates]).tolist():
        part = engine.update(columns.part(done, stop)).values
        for tick in wanted[(wanted >= done) & (wanted < stop)].tolist():
            known[tick] = part[tick - done]
        done = stop
    return known


def _ticks_of(recorded: RecordedTicks, rows: ForecastRows, row: int) -> list[int]:
    """The places of the ticks at the time of a row, of its product, ascending."""
    columns = recorded.columns
    code = recorded.products.index(rows.products[int(rows.product[row])])
    at_time = (columns.event_time_ns == rows.time_ns[row]) & (columns.product == code) & (columns.kind != GAP)
    return np.flatnonzero(at_time).tolist()
