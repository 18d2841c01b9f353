"""Where the real recordings are, on a machine that has them. The project ships none (docs: their licences)."""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import InputError

DATA_DIR = "VOLCAST_DATA_DIR"


def data_dir() -> Path | None:
    """VOLCAST_DATA_DIR, else ../shared/data beside the project; None where neither is.

    Raises InputError where the variable names no directory.
    """
    named = os.environ.get(DATA_DIR)
    if named:
        path = Path(named).expanduser()
        if not path.is_dir():
            raise InputError(f"{DATA_DIR}: expected a directory, got {named!r}")
        return path
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return beside if beside.is_dir() else None


def coinbase_ticker_files(pattern: str = "*.ndjson.gz") -> list[Path]:
    """Recordings of the Coinbase ticker, by name and so by time; none where there is no data."""
    root = data_dir()
    return sorted((root / "coinbase_ticker").glob(pattern)) if root else []


def coinbase_ticker_2025() -> list[Path]:
    """The 30 unbroken pieces of December 2025, 73,334 ticks, bare form."""
    return coinbase_ticker_files("BTC-USD_2025*.ndjson.gz")


def coinbase_ticker_2026() -> list[Path]:
    """The 20 minutes of 2026-04-05, 5,970 ticks, wrapped form."""
    return coinbase_ticker_files("BTC-USD_20260405*.ndjson.gz")


def btc_quotes_2021() -> list[Path]:
    """357,424 quotes polled every 5 s over 21 days of spring 2021."""
    root = data_dir()
    return sorted(root.glob("btc_quotes_5s_2021.parquet")) if root else []


def coinbase_minutes() -> list[Path]:
    """BTC-USD by minutes, July and August 2026, a file a day."""
    root = data_dir()
    return sorted((root / "coinbase_1min").glob("*.csv.gz")) if root else []


def binance_l1() -> list[Path]:
    """Ten minutes of August 2024 of Binance spot and futures, BTC and ETH: 252,013 quotes, a receive time a line."""
    root = data_dir()
    return sorted((root / "binance_l1").glob("*.gz")) if root else []
