"""Are live predictions those of an offline computation? `python -m benchmarks.live_offline RECORDING…`

The recording is replayed through the whole running system (the parts of `volcast run`: broker, exchange, ingest,
worker, inference server) as fast as possible, and `volcast monitor --once` joins the predictions with outcomes. The
offline side computes features by the engine of `volcast features`, predictions by the bundle's graph as `volcast infer`
does, and outcomes and scores as training does. Printed are the largest differences: of each output of a prediction
(probability, spike size, base rate, median, each quantile), each outcome, each score. The exit code is 1 if a
difference is larger than --tolerance, or rows are on one side only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header
from benchmarks.processes import free_port
from cli.run.command import RunSession
from cli.run.plan import Exchange, environment, own_kafka
from cli.run.processes import ProcessGroup
from cli.run.view import View
from common.bundle import read_bundle
from common.config import KafkaConfig, load_config
from common.errors import UnavailableError, VolcastError
from common.model_store import ModelStore
from common.schema import SCHEMAS
from pipeline.archive import expand_paths, read_archive
from pipeline.features.table import compute_features
from training.commands.topics import read_to_end
from training.forecasting.onnx_forecast import OnnxForecast
from training.judging.events import brier, detection, log_loss
from training.judging.scores import covered, row_scores
from training.monitoring.served import GraphForecasts
from training.problem.forecast_rows import ForecastRows
from training.problem.recordings import Recording, read_recording
from training.problem.target import BPS
from training.shipping.inference import Predictor
from volcast.v1 import Prediction

JOINED = "joined.ndjson"
ALL = "1000h"  # a window longer than any recording
TOLERANCE = 1e-9
LEVELS = (0.025, 0.1, 0.5, 0.9, 0.975)  # of the quantiles in each prediction of a forecast
Key = tuple[str, int, int]  # product, event time, number among those of that time: a replay counts sequences anew


Values = dict[Key, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """An output on both sides: the number of values compared, the largest difference, and its place."""

    what: str
    compared: int
    largest: float
    where: str
    one_sided: int = 0  # values on one side only

    def within(self, tolerance: float) -> bool:
        return self.compared > 0 and self.one_sided == 0 and self.largest <= tolerance


@dataclass(frozen=True, slots=True)
class Live:
    """Results of the running system."""

    ticks: int
    predictions: dict[str, Values]  # output -> every prediction on the topic
    joined: list[dict[str, Any]]  # lines of the monitor's file
    monitor: dict[str, Any]  # output of the monitor


def compare(recordings: str, bundle: Path, folder: Path, console: Console) -> tuple[list[Difference], dict[str, Any]]:
    """Runs the system in `folder`. Returns the differences, and counts."""
    manifest, graph = read_bundle(bundle)
    live = run_live(recordings, bundle, folder, console)
    console.print("offline: features, predictions, outcomes, scores")
    predictor = Predictor(manifest, graph, levels=LEVELS if manifest.forecast else ())
    schema = SCHEMAS[manifest.schema.name]
    rows = read_recording(Recording("recording", tuple(expand_paths(recordings))), schema)
    offline = _every_prediction(recordings, predictor)
    differences = [
        *(_by_key(output, live.predictions.get(output, {}), values) for output, values in offline.items()),
        _by_key("outcome", _joined(live), _outcomes(rows)),
        _scores(live, scores(rows, predictor, graph)),
    ]
    size_bps = predictor.spike_bps or manifest.label.threshold * BPS
    return differences, {
        "ticks": live.ticks,
        "predictions": len(live.predictions["probability"]),
        "joined": live.monitor["joined"],
        "unjoined": live.monitor["unjoined"],
        "rows": len(rows),
        "spikes": int(np.count_nonzero(rows.outcome_bps >= size_bps)),
    }


def run_live(recordings: str, bundle: Path, folder: Path, console: Console) -> Live:
    """Replays through all parts of `volcast run`, then runs the monitor before the broker ends."""
    manifest, _ = read_bundle(bundle)
    # A folder with this version only: in the bundle's own folder labels.json may name another version.
    models = folder / "models"
    shutil.copytree(bundle, models / manifest.name / manifest.version)
    settings = {
        **{f"VOLCAST_{part}__PORT": str(free_port()) for part in ("BROKER", "EXCHANGE", "SERVER", "GATEWAY")},
        **{f"VOLCAST_{part}__METRICS_PORT": "0" for part in ("SERVER", "WORKER", "INGEST", "MONITOR")},
        "VOLCAST_SERVER__MODELS_DIR": str(models.resolve()),
        "VOLCAST_SERVER__DEFAULT_MODEL": manifest.name,
        "VOLCAST_WORKER__SCHEMA": manifest.schema.name,
        "VOLCAST_WORKER__MODEL": manifest.name,
        "VOLCAST_WORKER__QUANTILES": ",".join(map(str, LEVELS)) if manifest.forecast else "",
        "VOLCAST_WORKER__SPIKE_BPS": "0",
    }
    config = load_config(None, {**os.environ, **settings})
    exchange = Exchange.parse(f"replay:{recordings}")
    environ = environment(config, exchange, str(folder / "features"), "")
    environ |= settings | own_kafka(config, str(folder / "kafka"))
    options = exchange.arguments(speed=float("inf"), seed=1, duration_s=None, schema=manifest.schema.name)
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with ProcessGroup(logs, None) as parts, View(parts, console) as view:
        session = RunSession(parts, view, environ, lambda: False)
        session.start(config, options)
        session.watch(None)
        summary = session.finish()
        output = _volcast(
            "monitor", "--once", "--out", str(folder / JOINED), "--window", ALL, "--json", environ=environ
        )
        kafka = msgspec.structs.replace(config.kafka, bootstrap_servers=environ["VOLCAST_KAFKA__BOOTSTRAP_SERVERS"])
        predictions = _all_predictions(kafka)
    joined = [msgspec.json.decode(line) for line in (folder / JOINED).read_bytes().splitlines()]
    return Live(summary.ticks, predictions, joined, msgspec.json.decode(output))


def _volcast(*arguments: str, environ: Mapping[str, str]) -> bytes:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments], env={**os.environ, **environ}, capture_output=True, check=False
    )
    if done.returncode:
        raise UnavailableError(f"volcast {arguments[0]}: {done.stderr.decode().strip().splitlines()[-1]}")
    return done.stdout


def _all_predictions(kafka: KafkaConfig) -> dict[str, Values]:
    """Output -> values of every prediction on the topic."""
    outputs: dict[str, Values] = {}
    seen: Counter[tuple[str, int]] = Counter()
    for message in read_to_end(kafka, kafka.topics.predictions, None):
        record = Prediction.FromString(message.value() or b"")
        key = (record.product_id, record.event_time_ns, seen[record.product_id, record.event_time_ns])
        seen[record.product_id, record.event_time_ns] += 1
        values = {"probability": record.probability if record.HasField("probability") else np.nan}
        if record.spike_bps:
            values |= {
                "spike_bps": record.spike_bps, "base_rate": record.base_rate, "median_bps": record.median_bps,
                **{
                    f"quantile {level:g}": value
                    for level, value in zip(record.quantile_levels, record.quantile_bps, strict=True)
                },
            }  # fmt: skip
        for output, value in values.items():
            outputs.setdefault(output, {})[key] = value
    return outputs


def _every_prediction(recordings: str, predictor: Predictor) -> dict[str, Values]:
    """Output -> predictions of every warm row that `volcast features` makes of the recording."""
    schema = SCHEMAS[predictor.manifest.schema.name]
    rows = compute_features(read_archive(expand_paths(recordings)), schema=schema).rows
    warm = np.flatnonzero(rows.warm)
    answers = predictor.answers(rows.values[warm])
    columns: dict[str, NDArray[np.float64]] = {"probability": answers.probability}
    if answers.median_bps is not None and answers.quantile_bps is not None:
        columns |= {
            "spike_bps": np.full(len(warm), predictor.spike_bps),
            "base_rate": np.full(len(warm), predictor.base_rate),
            "median_bps": answers.median_bps,
            **{f"quantile {level:g}": answers.quantile_bps[:, place] for place, level in enumerate(predictor.levels)},
        }
    products = [rows.product_ids[row] for row in warm.tolist()]
    times = rows.event_time_ns[warm].tolist()
    return {output: _numbered(zip(products, times, values.tolist(), strict=True)) for output, values in columns.items()}


def _numbered(rows: Iterable[tuple[str, int, float]]) -> Values:
    """Values by product, time, and place among the rows of that time."""
    values: Values = {}
    seen: Counter[tuple[str, int]] = Counter()
    for product, time_ns, value in rows:
        values[product, time_ns, seen[product, time_ns]] = value
        seen[product, time_ns] += 1
    return values


def _joined(live: Live) -> Values:
    """Outcomes of joined rows: a row for each time."""
    return {(line["product_id"], line["event_time_ns"], 0): line["outcome_bps"] for line in live.joined}


def _outcomes(rows: ForecastRows) -> Values:
    columns = (rows.product.tolist(), rows.time_ns.tolist(), rows.outcome_bps.tolist())
    return {(rows.products[product], at, 0): value for product, at, value in zip(*columns, strict=True)}


def scores(rows: ForecastRows, predictor: Predictor, graph: bytes) -> dict[str, float]:
    """Scores of the bundle on rows, by the names of the monitor."""
    manifest = predictor.manifest
    event = rows.outcome_bps >= (predictor.spike_bps or manifest.label.threshold * BPS)
    probability = predictor.probabilities(rows.features)
    ranks = detection(event, probability, manifest.decision_threshold)
    values = {
        "event_rate": ranks.event_rate,
        "pr_auc": ranks.pr_auc,
        "roc_auc": ranks.roc_auc,
        "log_loss": float(log_loss(event, probability).mean()),
        "brier": float(brier(event, probability).mean()),
        "base_rate": predictor.base_rate or 1 - manifest.label.quantile,
        "max_difference": 0.0,
    }
    if manifest.forecast is not None:
        of = row_scores(
            GraphForecasts(OnnxForecast(graph), rows.features), rows.outcome_bps, manifest.forecast.floor_bps
        )
        values |= {
            "crps": float(of.crps_log.mean()),
            "qlike": float(of.qlike.mean()),
            "coverage_80": float(covered(of.pit_low, of.pit_high, 0.8).mean()),
            "coverage_95": float(covered(of.pit_low, of.pit_high, 0.95).mean()),
        }
    return values


def _by_key(what: str, live: Mapping[Key, float], offline: Mapping[Key, float]) -> Difference:
    both = [key for key in live if key in offline]
    differences = {key: abs(live[key] - offline[key]) for key in both}
    worst = max(both, key=lambda key: np.nan_to_num(differences[key], nan=np.inf), default=None)
    where = "" if worst is None else f"{worst[0]} at {worst[1]}: live {live[worst]:.9g}, offline {offline[worst]:.9g}"
    largest = np.nan if worst is None else differences[worst]
    return Difference(what, len(both), largest, where, len(live) + len(offline) - 2 * len(both))


def _scores(live: Live, offline: Mapping[str, float]) -> Difference:
    """The monitor's scores of the answers, against scores of the bundle's graph offline."""
    (line,) = (line for line in live.monitor["figures"] if (line["forecaster"], line["role"]) == ("model", "answered"))
    defined = {name: value for name, value in offline.items() if value == value}
    both = [name for name in defined if name in line]
    differences = {name: abs(line[name] - defined[name]) for name in both}
    worst = max(both, key=lambda name: differences[name], default="")
    where = f"{worst}: live {line[worst]:.9g}, offline {defined[worst]:.9g}" if worst else ""
    return Difference("scores", len(both), differences.get(worst, np.nan), where, len(defined) - len(both))


def show(console: Console, differences: Sequence[Difference], figures: Mapping[str, Any], tolerance: float) -> None:
    table = Table("output", "compared", "on one side only", "largest difference", "where", "within tolerance")
    for each in differences:
        within = "yes" if each.within(tolerance) else "[red]no[/red]"
        table.add_row(each.what, f"{each.compared:,}", str(each.one_sided), f"{each.largest:.3g}", each.where, within)
    console.print(table)
    for name, value in figures.items():
        console.print(f"{name}: {value}", highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", help="FILE, DIR, GLOB or several with commas")
    parser.add_argument("--bundle", type=Path, help="default: the answering version of models/volatility")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--keep", type=Path, help="a folder for logs and joined.ndjson")
    arguments = parser.parse_args()
    console = Console(width=160 if not sys.stdout.isatty() else None)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.keep or Path(temporary)
            bundle = arguments.bundle or ModelStore(Path("models"), "volatility").answering()
            differences, figures = compare(arguments.recordings, bundle, folder, console)
    except VolcastError as error:
        print(f"live_offline: {error}", file=sys.stderr)
        return 1
    header(console, f"python -m benchmarks.live_offline {arguments.recordings}", str(bundle))
    show(console, differences, figures, arguments.tolerance)
    return 0 if all(each.within(arguments.tolerance) for each in differences) else 1


if __name__ == "__main__":
    sys.exit(main())
