"""The simulated market beside the recordings: `python -m benchmarks.market [--names MODEL…] [--seeds 40] [--hours 2]`

The first table has statistics of one simulated hour beside those of the recordings. Then a table for each model has,
over all simulated hours, the share of rows at or above the model's spike size, and the model's mean probability on
those rows. Ends with 1 if an hour is out of bounds. --plot FILE draws an hour beside the longest recording.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import takewhile
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header, machine
from benchmarks.stored import RESULTS
from common.bundle import read_bundle
from common.errors import InputError
from common.model_store import ModelStore
from common.schema import SCHEMAS, FeatureSchema
from pipeline.archive import read_archive
from pipeline.datasets import coinbase_ticker_2025, coinbase_ticker_2026
from pipeline.exchange.simulator import PRICE_SCALE, PROFILES, QUANTITY_SCALE, START_NS, simulate
from pipeline.features.columns import TickColumns
from pipeline.features.engine import FeatureEngine
from pipeline.records import Tick
from training.forecasting.onnx_forecast import OnnxForecast
from training.problem.target import DEFAULT_TARGET

HOUR_NS = 3600 * 10**9
MINUTE_NS = 60 * 10**9
SHARES = 0.05, 0.15  # of rows that are spikes, in any hour
MAX_DIFFERENCE = 0.05  # between that share and the model's mean probability
RATE_PER_S = 5.0
NAME = "volatility"  # of the default model
MODELS = Path(__file__).resolve().parents[1] / "models"
FIGURES = "spike_share", "mean_probability", "difference"  # of an hour

Columns = NDArray[np.float64]  # (ticks, 6): seconds, price, bid, ask, bid quantity, ask quantity


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour of a simulated product."""

    product: str
    seed: int
    number: int
    rows: int
    spike_share: float
    mean_probability: float

    @property
    def difference(self) -> float:
        return self.mean_probability - self.spike_share

    @property
    def in_bounds(self) -> bool:
        return SHARES[0] <= self.spike_share <= SHARES[1] and abs(self.difference) <= MAX_DIFFERENCE


@dataclass(frozen=True, slots=True)
class ShippedForecast:
    """The forecast that a store answers with."""

    schema: FeatureSchema
    model: OnnxForecast
    spike_bps: float

    def probabilities(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of a spike, for each of rows (n, features), (n,)."""
        probability, _, _ = self.model.run(rows, np.full(len(rows), self.spike_bps), np.zeros((len(rows), 0)))
        return probability


@cache
def shipped(name: str = NAME, models: Path = MODELS) -> ShippedForecast:
    """Of a store's stable version. Raises InputError if the version has a single spike size."""
    manifest, model = read_bundle(ModelStore(models, name).answering())
    if manifest.forecast is None:
        raise InputError(f"{name}/{manifest.version}: expected a forecast, not a model of a single spike size")
    return ShippedForecast(SCHEMAS[manifest.schema.name], OnnxForecast(model), manifest.forecast.spike_bps)


def hours(
    product: str, seed: int, count: int, rate_per_s: float = RATE_PER_S, forecast: ShippedForecast | None = None
) -> Iterator[Hour]:
    """The first `count` hours of a simulated market, each with all warm rows whose next minute is complete.

    forecast: None: the default model.
    """
    forecast = forecast or shipped()
    time_ns, columns = _simulated(product, seed, START_NS + count * HOUR_NS + 2 * MINUTE_NS, rate_per_s)
    rows = FeatureEngine(forecast.schema).update(_ticks(time_ns, columns))
    mid = (columns[:, 2] + columns[:, 3]) / 2
    outcome_bps = DEFAULT_TARGET.outcomes_bps(time_ns, mid, np.zeros(len(mid), np.int64))
    complete = rows.warm & np.isfinite(outcome_bps)
    number = (time_ns - START_NS) // HOUR_NS
    for hour in range(count):
        chosen = complete & (number == hour)
        spikes = float((outcome_bps[chosen] >= forecast.spike_bps).mean())
        probability = float(forecast.probabilities(rows.values[chosen]).mean())
        yield Hour(product, seed, hour, int(chosen.sum()), spikes, probability)


def _simulated(product: str, seed: int, end_ns: int, rate_per_s: float) -> tuple[NDArray[np.int64], Columns]:
    ticks = list(takewhile(lambda tick: tick.event_time_ns < end_ns, simulate([product], seed, rate_per_s)))
    values = np.array([(0, t.price, t.bid, t.ask, t.bid_quantity, t.ask_quantity) for t in ticks], np.float64)
    values[:, 1:4] /= PRICE_SCALE
    values[:, 4:] /= QUANTITY_SCALE
    return _with_seconds(np.array([tick.event_time_ns for tick in ticks], np.int64), values)


def _recorded(path: Path) -> tuple[NDArray[np.int64], Columns]:
    ticks = [record for record in read_archive([path]) if isinstance(record, Tick)]
    values = np.array([(0, t.price, t.bid, t.ask, t.bid_quantity, t.ask_quantity) for t in ticks], np.float64)
    return _with_seconds(np.array([tick.event_time_ns for tick in ticks], np.int64), values)


def _with_seconds(time_ns: NDArray[np.int64], values: Columns) -> tuple[NDArray[np.int64], Columns]:
    values[:, 0] = (time_ns - time_ns[0]) / 1e9
    return time_ns, values


def _ticks(time_ns: NDArray[np.int64], columns: Columns) -> TickColumns:
    price, bid, ask, bid_quantity, ask_quantity = (np.ascontiguousarray(column) for column in columns.T[1:])
    count = len(time_ns)
    return TickColumns(
        product=np.zeros(count, np.int32),
        kind=np.zeros(count, np.uint8),
        event_time_ns=time_ns,
        sequence_num=np.arange(count, dtype=np.int64),
        price=price,
        bid=bid,
        ask=ask,
        bid_quantity=bid_quantity,
        ask_quantity=ask_quantity,
        ingest_time_ns=time_ns,
    )


def volatility_bps(columns: Columns, every_s: float = 10.0) -> NDArray[np.float64]:
    """Realized volatility over the last 60 s, at each `every_s`."""
    time_s, mid = columns[:, 0], (columns[:, 2] + columns[:, 3]) / 2
    sums = np.concatenate([[0.0, 0.0], np.cumsum(np.diff(np.log(mid)) ** 2)])
    grid = np.arange(60.0, time_s[-1], every_s)
    ends, starts = (np.searchsorted(time_s, at, "right") for at in (grid, grid - 60.0))
    return np.asarray(np.sqrt(np.maximum(sums[ends] - sums[starts], 0.0)) * 1e4, np.float64)


def statistics(columns: Columns) -> Mapping[str, float]:
    """What is compared, of one unbroken stretch of a product's ticks."""
    time_s, price, bid, ask, bid_quantity, ask_quantity = columns.T
    volatility = volatility_bps(columns)
    log_volatility = np.log(np.maximum(volatility_bps(columns, 60.0), 1e-3))
    next_minute = np.corrcoef(log_volatility[:-1], log_volatility[1:])[0, 1]
    returns_bps = np.abs(np.diff(np.log((bid + ask) / 2))) * 1e4
    moves = returns_bps[returns_bps > 0]
    steps = np.round((ask - bid) * PRICE_SCALE)
    waits_s = np.diff(time_s)
    per_10s = np.bincount((time_s / 10).astype(int))[:-1]
    imbalance = (bid_quantity - ask_quantity) / (bid_quantity + ask_quantity)
    return {
        "ticks/s": len(time_s) / time_s[-1],
        "ticks in 10 s, variance/mean": float(per_10s.var() / per_10s.mean()),
        "longest wait, s": float(waits_s.max()),
        "volatility, bps: 10 %": float(np.quantile(volatility, 0.1)),
        "volatility, bps: 50 %": float(np.median(volatility)),
        "volatility, bps: 90 %": float(np.quantile(volatility, 0.9)),
        "volatility, bps: largest": float(volatility.max()),
        "log volatility, correlation with the next minute": float(next_minute),
        "updates that move the mid, share": len(moves) / len(returns_bps),
        "size of a move, bps: 50 %": float(np.median(moves)),
        "size of a move, bps: 99 %": float(np.quantile(moves, 0.99)),
        "size of a move, bps: largest": float(moves.max()),
        "spread of one step, share": float((steps <= 1).mean()),
        "wide spread, steps: 50 %": float(np.median(steps[steps > 1])),
        "wide spread, steps: 90 %": float(np.quantile(steps[steps > 1], 0.9)),
        "updates that change the price, share": float((np.diff(price) != 0).mean()),
        "imbalance, absolute: 50 %": float(np.median(np.abs(imbalance))),
        "imbalance, correlation with the next": float(np.corrcoef(imbalance[:-1], imbalance[1:])[0, 1]),
        "quantity: 50 %": float(np.median(bid_quantity)),
        "quantity: 95 %": float(np.quantile(bid_quantity, 0.95)),
    }


def _long_recordings() -> list[Columns]:
    """Recordings of ten minutes or more, unbroken."""
    files = [*coinbase_ticker_2025(), *coinbase_ticker_2026()]
    recordings = [_recorded(path)[1] for path in files]
    return [columns for columns in recordings if columns[-1, 0] >= 600]


def _compare(console: Console, simulated: Columns, recordings: list[Columns]) -> None:
    table = Table("statistic of BTC-USD", "simulated", "recordings: lowest", "median", "highest")
    recorded = [list(statistics(columns).values()) for columns in recordings]
    spread = np.quantile(recorded, [0.0, 0.5, 1.0], axis=0) if recorded else np.full((3, 20), np.nan)
    for (name, value), (low, middle, high) in zip(statistics(simulated).items(), spread.T, strict=True):
        table.add_row(name, *(f"{number:.3g}" for number in (value, low, middle, high)))
    console.print(table)
    if not recordings:
        console.print("no recordings: ../shared/data or VOLCAST_DATA_DIR")


def figures(scored: Sequence[Hour], product: str) -> dict[str, dict[str, float]]:
    """Statistics over the hours of a product: of the share of spikes, the mean probability, and their difference."""
    hours_of_product = [hour for hour in scored if hour.product == product]
    table: dict[str, dict[str, float]] = {}
    for name in FIGURES:
        values = np.array([getattr(hour, name) for hour in hours_of_product])
        statistic = {"lowest": values.min(), "mean": values.mean(), "highest": values.max(), "sd": values.std()}
        table[name] = {key: round(float(value), 4) for key, value in statistic.items()}
    return table


def _show_hours(console: Console, scored: Sequence[Hour]) -> None:
    table = Table("product", "hours", "figure", "lowest", "mean", "highest", "standard deviation", "out of bounds")
    for product in PROFILES:
        flags = [not hour.in_bounds for hour in scored if hour.product == product]
        for name, statistic in figures(scored, product).items():
            values = (f"{value:.3f}" for value in statistic.values())
            table.add_row(product, str(len(flags)), name.replace("_", " "), *values, str(sum(flags)))
    console.print(table)


def _save(command: str, scored: Mapping[str, Sequence[Hour]], spike_bps: Mapping[str, float]) -> None:
    """scored, spike_bps: by the name of the model."""
    content = {
        "command": command,
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": machine(),
        "bounds": {"spike_share": SHARES, "difference": MAX_DIFFERENCE},
        "models": {
            name: {
                "spike_bps": spike_bps[name],
                "hours_out_of_bounds": sum(not hour.in_bounds for hour in of_model),
                "products": {product: figures(of_model, product) for product in PROFILES},
                "hours": [asdict(hour) for hour in of_model],
            }
            for name, of_model in scored.items()
        },
    }
    (RESULTS / "market.json").write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def _plot(path: Path, simulated: Columns, recordings: list[Columns], spike_bps: float) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    longest = max(recordings, key=lambda columns: columns[-1, 0]) if recordings else None
    shown = {"simulated": simulated} | ({} if longest is None else {"recorded": longest})
    figure, axes = pyplot.subplots(3, len(shown), figsize=(7 * len(shown), 8), sharey="row", squeeze=False)
    for column, (name, columns) in enumerate(shown.items()):
        minutes, mid = columns[:, 0] / 60, (columns[:, 2] + columns[:, 3]) / 2
        axes[0][column].plot(minutes, (mid / mid[0] - 1) * 1e4, linewidth=0.6)
        axes[0][column].set(title=name, ylabel="mid since the start, bps")
        volatility = volatility_bps(columns)
        axes[1][column].plot(1 + np.arange(len(volatility)) / 6, volatility)
        axes[1][column].axhline(spike_bps, color="tab:red")
        axes[1][column].set(ylabel="volatility over 60 s, bps")
        per_10s = np.bincount((columns[:, 0] / 10).astype(int))[:-1] / 10
        axes[2][column].plot(np.arange(len(per_10s)) / 6, per_10s)
        axes[2][column].set(ylabel="ticks/s", xlabel="minutes")
    figure.savefig(path, dpi=80, bbox_inches="tight")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of bundles")
    parser.add_argument("--names", nargs="+", default=[NAME], help="models: their stable versions are scored")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--hours", type=int, default=2, help="hours of each seed and product")
    parser.add_argument("--rate", type=float, default=RATE_PER_S, help="ticks per second and product")
    parser.add_argument("--plot", type=Path, help="a PNG file")
    parser.add_argument("--save", action="store_true", help="keep the hours in benchmarks/results/market.json")
    options = parser.parse_args()
    console = Console()
    command = " ".join(["python -m benchmarks.market", *sys.argv[1:]])
    header(console, command, "the simulated market")
    simulated = _simulated("BTC-USD", options.first_seed, START_NS + HOUR_NS, options.rate)[1]
    recordings = _long_recordings()
    _compare(console, simulated, recordings)
    forecasts = {name: shipped(name, options.models) for name in options.names}
    if options.plot:
        _plot(options.plot, simulated, recordings, forecasts[options.names[0]].spike_bps)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    scored: dict[str, list[Hour]] = {}
    for name, forecast in forecasts.items():
        scored[name] = [
            hour
            for seed in seeds
            for product in PROFILES
            for hour in hours(product, seed, options.hours, options.rate, forecast)
        ]
        console.print(f"{name}: spikes of {forecast.spike_bps:g} bps or more")
        _show_hours(console, scored[name])
    if options.save:
        _save(command, scored, {name: forecast.spike_bps for name, forecast in forecasts.items()})
    return 0 if all(hour.in_bounds for of_model in scored.values() for hour in of_model) else 1


if __name__ == "__main__":
    sys.exit(main())
