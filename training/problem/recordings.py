"""The recordings of the shared data by name, and their rows. None of them is part of the project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import InputError
from common.schema import FULL_2, FeatureSchema
from pipeline.archive import DEFAULT_OPTIONS, ReadOptions, RecordingFormat
from pipeline.datasets import DATA_DIR, coinbase_ticker_2025, data_dir
from training.problem.data.dataset import Dataset, Progress, RecordedTicks
from training.problem.data.load import load
from training.problem.forecast_rows import ForecastRows, pooled
from training.problem.target import DEFAULT_TARGET, NS_PER_S, Target

# Quotes are polled every 5 s and mids every second. A longer silence ends an unbroken stretch: no return spans it.
POLL_SILENCE_S = 30
# Values of --dataset, and how the names of their recordings begin. streams: a tick a second or more (decision 33).
DATASETS = {
    "ticks": ("ticks",),
    "streams": ("mids", "perpetual", "ticks"),
    "quotes": ("quotes",),
    "recordings": ("",),
}


@dataclass(frozen=True, slots=True)
class Recording:
    """Files that belong together. name: of reports, such as "quotes 2021"."""

    name: str
    files: tuple[Path, ...]
    options: ReadOptions = DEFAULT_OPTIONS


@dataclass(frozen=True, slots=True)
class PooledData:
    """The rows of all recordings, and the files that they are from.

    recorded: by number in rows.recordings; () if a feature file is among them, which has no ticks. formats: how each
    flat recording was read.
    """

    rows: ForecastRows
    paths: tuple[Path, ...]
    recorded: tuple[RecordedTicks, ...]
    formats: tuple[RecordingFormat, ...] = ()


def _polled(product: str) -> ReadOptions:
    return ReadOptions({"time": "ts_utc"}, product, POLL_SILENCE_S * NS_PER_S)


def known_recordings() -> tuple[Recording, ...]:
    """The four recordings of the shared data that are on this machine."""
    root = data_dir()
    if root is None:
        return ()
    recordings = (
        Recording("quotes 2021", (root / "btc_quotes_5s_2021.parquet",), _polled("BTC-USD")),
        Recording("mids of December", (root / "btc_mids_1s_dydx_202512.parquet",), _polled("BTC-USD")),
        Recording("perpetual of November", (root / "btc_quotes_1s_usdm_20251130.parquet",), _polled("BTCUSDT")),
        Recording("ticks of December", tuple(coinbase_ticker_2025())),
    )
    return tuple(each for each in recordings if each.files and all(file.exists() for file in each.files))


def dataset_recordings(dataset: str) -> tuple[Recording, ...]:
    """The known recordings that `--dataset` names (DATASETS). Raises InputError if there is none on this machine."""
    matching = tuple(each for each in known_recordings() if each.name.startswith(DATASETS[dataset]))
    if not matching:
        raise InputError(
            f"no data for --dataset {dataset}: set {DATA_DIR} to the folder of the recordings, put it at "
            "../shared/data, or name recordings"
        )
    return matching


def read_recording(
    recording: Recording,
    schema: FeatureSchema = FULL_2,
    sample_period_s: int = 5,
    target: Target = DEFAULT_TARGET,
) -> ForecastRows:
    """The rows of a recording, as `load` reads them, under the recording's name. Raises InputError as `load` does."""
    rows = load(
        recording.files, schema=schema, sample_period_s=sample_period_s, target=target, options=recording.options
    ).rows
    return replace(rows, recording=rows.recording * 0, recordings=(recording.name,))


def read_recordings(
    recordings: Sequence[Recording], schema: FeatureSchema, sample_period_s: int, progress: Progress
) -> PooledData:
    """The rows of recordings, pooled. Raises InputError as `load` does."""
    datasets: list[Dataset] = []
    for recording in recordings:
        progress(f"reading {recording.name}: {len(recording.files)} files")
        dataset = load(
            recording.files,
            schema=schema,
            sample_period_s=sample_period_s,
            options=recording.options,
            progress=progress,
        )
        if len(recordings) > 1 and len(dataset.rows.recordings) == 1:
            dataset = replace(dataset, rows=replace(dataset.rows, recordings=(recording.name,)))
        datasets.append(dataset)
    have_ticks = all(dataset.recorded for dataset in datasets)
    return PooledData(
        rows=pooled([dataset.rows for dataset in datasets]),
        paths=tuple(path for dataset in datasets for path in dataset.paths),
        recorded=tuple(each for dataset in datasets for each in dataset.recorded) if have_ticks else (),
        formats=tuple(each for dataset in datasets for each in dataset.formats),
    )
