"""Is what is seen live what is computed offline? `python -m benchmarks.live_offline RECORDING…`

The recording is replayed through the whole running system (`volcast run`'s own parts: broker, exchange, ingest,
worker, inference server) as fast as it goes, and `volcast monitor --once` joins what came out with what happened.
Beside it the recording itself: features by `volcast features`' engine, probabilities by the bundle's graph, truth
and metrics by `volcast evaluate`. Printed are the largest differences: of each prediction, each realized
volatility, each metric. Ends with 1 where one is larger than --tolerance, or rows are on one side only.
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
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header
from benchmarks.processes import free_port
from cli.run.command import RunSession
from cli.run.plan import Exchange, environment, own_kafka
from cli.run.processes import ProcessGroup
from cli.run.view import View
from common.bundle import Manifest, read_bundle
from common.config import KafkaConfig, load_config
from common.errors import UnavailableError, VolcastError
from common.model_store import ModelStore
from common.schema import SCHEMAS
from pipeline.archive import expand_paths, read_archive
from pipeline.features.table import compute_features
from training.commands.topics import read_to_end
from training.monitoring.scoreboard import METRICS
from training.problem.data import Dataset, load
from training.shipping.onnx_model import OnnxModel
from training.shipping.scoring import schema_for
from volcast.v1 import Prediction

JOINED = "joined.ndjson"
ALL = "1000h"  # a window that no recording fills
TOLERANCE = 1e-6
Key = tuple[str, int, int]  # product, event time, number among those of that time: a replay counts sequences anew


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing on both sides: how many were compared, the largest difference, and where that was."""

    what: str
    compared: int
    largest: float
    where: str
    one_sided: int = 0  # here or there only

    def within(self, tolerance: float) -> bool:
        return self.compared > 0 and self.one_sided == 0 and self.largest <= tolerance


@dataclass(frozen=True, slots=True)
class Live:
    """What came out of the running system."""

    ticks: int
    predictions: dict[Key, float]  # every one on the topic
    joined: list[dict[str, Any]]  # lines of the monitor's file
    monitor: dict[str, Any]  # what it said


def compare(recordings: str, bundle: Path, folder: Path, console: Console) -> tuple[list[Difference], dict[str, Any]]:
    """Runs all of it in `folder`; gives the differences, and what else there is to tell."""
    manifest, graph = read_bundle(bundle)
    live = run_live(recordings, bundle, folder, console)
    console.print("offline: features, probabilities, truth, evaluation")
    dataset = load(expand_paths(recordings), schema=schema_for(manifest, answered=True))
    evaluated = evaluate(recordings, bundle, folder)
    differences = [
        _by_key("predictions, every tick", live.predictions, _every_prediction(recordings, manifest, graph)),
        _by_key("realized volatility that followed", _joined(live, "future_volatility"), _truth(dataset)),
        *_metrics(live, evaluated, manifest.kind),
    ]
    return differences, {
        "ticks": live.ticks,
        "predictions": len(live.predictions),
        "joined": live.monitor["joined"],
        "unjoined": live.monitor["unjoined"],
        "evaluated": evaluated["parts"][0]["rows"],
        "spikes": evaluated["parts"][0]["positives"],
    }


def run_live(recordings: str, bundle: Path, folder: Path, console: Console) -> Live:
    """Replays through all parts of `volcast run`, then asks the monitor while the broker still stands."""
    manifest, _ = read_bundle(bundle)
    # A folder with this version alone: elsewhere labels.json may say that another answers.
    models = folder / "models"
    shutil.copytree(bundle, models / manifest.name / manifest.version)
    settings = {
        **{f"VOLCAST_{part}__PORT": str(free_port()) for part in ("BROKER", "EXCHANGE", "SERVER", "GATEWAY")},
        **{f"VOLCAST_{part}__METRICS_PORT": "0" for part in ("SERVER", "WORKER", "INGEST", "MONITOR")},
        "VOLCAST_SERVER__MODELS_DIR": str(models.resolve()),
        "VOLCAST_SERVER__DEFAULT_MODEL": manifest.name,
        "VOLCAST_WORKER__SCHEMA": manifest.schema.name,
        "VOLCAST_WORKER__MODEL": manifest.name,
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
        said = _volcast("monitor", "--once", "--out", str(folder / JOINED), "--window", ALL, "--json", environ=environ)
        kafka = msgspec.structs.replace(config.kafka, bootstrap_servers=environ["VOLCAST_KAFKA__BOOTSTRAP_SERVERS"])
        predictions = _all_predictions(kafka)
    joined = [msgspec.json.decode(line) for line in (folder / JOINED).read_bytes().splitlines()]
    return Live(summary.ticks, predictions, joined, msgspec.json.decode(said))


def evaluate(recordings: str, bundle: Path, folder: Path) -> dict[str, Any]:
    """`volcast evaluate` over the recording, of the predictions that the monitor wrote and of the bundle's own."""
    paths = [str(path) for path in expand_paths(recordings)]
    options = ("--bundle", str(bundle), "--predictions", str(folder / JOINED), "--seen", "--resamples", "40")
    said = _volcast("evaluate", *paths, *options, "--out", str(folder / "reports"), "--json", environ={})
    decoded: dict[str, Any] = msgspec.json.decode(said)
    return decoded


def _volcast(*arguments: str, environ: Mapping[str, str]) -> bytes:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments], env={**os.environ, **environ}, capture_output=True, check=False
    )
    if done.returncode:
        raise UnavailableError(f"volcast {arguments[0]}: {done.stderr.decode().strip().splitlines()[-1]}")
    return done.stdout


def _all_predictions(kafka: KafkaConfig) -> dict[Key, float]:
    records = (
        Prediction.FromString(message.value() or b"") for message in read_to_end(kafka, kafka.topics.predictions, None)
    )
    return _numbered(
        (one.product_id, one.event_time_ns, one.probability if one.HasField("probability") else np.nan)
        for one in records
    )


def _every_prediction(recordings: str, manifest: Manifest, graph: bytes) -> dict[Key, float]:
    """What the graph says of every warm row that `volcast features` makes of the recording."""
    schema = SCHEMAS[manifest.schema.name]
    rows = compute_features(read_archive(expand_paths(recordings)), schema=schema).rows
    warm = np.flatnonzero(rows.warm)
    products = [rows.product_ids[row] for row in warm.tolist()]
    probability = OnnxModel(graph).probabilities(rows.values[warm])
    return _numbered(zip(products, rows.event_time_ns[warm].tolist(), probability.tolist(), strict=True))


def _numbered(rows: Iterable[tuple[str, int, float]]) -> dict[Key, float]:
    """Values by product, time, and place among those of one time."""
    found: dict[Key, float] = {}
    seen: Counter[tuple[str, int]] = Counter()
    for product, time_ns, value in rows:
        found[product, time_ns, seen[product, time_ns]] = value
        seen[product, time_ns] += 1
    return found


def _joined(live: Live, column: str) -> dict[Key, float]:
    """Thinned rows: one of a time."""
    return {(one["product_id"], one["event_time_ns"], 0): one[column] for one in live.joined}


def _truth(dataset: Dataset) -> dict[Key, float]:
    rows = dataset.rows
    return {
        (dataset.products[product], time_ns, 0): value
        for product, time_ns, value in zip(
            rows.product.tolist(), rows.time_ns.tolist(), rows.future_volatility.tolist(), strict=True
        )
    }


def _by_key(what: str, live: Mapping[Key, float], offline: Mapping[Key, float]) -> Difference:
    both = [key for key in live if key in offline]
    apart = {key: abs(live[key] - offline[key]) for key in both}
    worst = max(apart, key=lambda key: apart[key] if apart[key] == apart[key] else np.inf, default=None)
    where = "" if worst is None else f"{worst[0]} at {worst[1]}: live {live[worst]:.9g}, offline {offline[worst]:.9g}"
    largest = np.nan if worst is None else apart[worst]
    return Difference(what, len(both), largest, where, len(live) + len(offline) - 2 * len(both))


def _metrics(live: Live, evaluated: Mapping[str, Any], kind: str) -> list[Difference]:
    """What the monitor says against `volcast evaluate`: of the very same predictions, and of the bundle's own."""
    (line,) = (one for one in live.monitor["figures"] if one["forecaster"] == "model" and one["role"] == "answered")
    models = evaluated["parts"][0]["models"]
    found = []
    for what, model in (("metrics, of the same predictions", "given"), ("metrics, of the bundle offline", kind)):
        offline = {name: figure["value"] for name, figure in models[model]["metrics"].items()}
        both = [name for name in METRICS if name in line and name in offline]
        lacking = sum((name in line) != (name in offline) for name in METRICS)
        apart = {name: abs(line[name] - offline[name]) for name in both}
        worst = max(apart, key=lambda name: apart[name], default="")
        where = f"{worst}: live {line[worst]:.9g}, offline {offline[worst]:.9g}" if worst else ""
        found.append(Difference(what, len(both), apart.get(worst, np.nan), where, lacking))
    return found


def show(console: Console, differences: Sequence[Difference], figures: Mapping[str, Any], tolerance: float) -> None:
    table = Table("what", "compared", "on one side only", "largest difference", "where", "held")
    for one in differences:
        held = "yes" if one.within(tolerance) else "[red]no[/red]"
        table.add_row(one.what, f"{one.compared:,}", str(one.one_sided), f"{one.largest:.3g}", one.where, held)
    console.print(table)
    for name, value in figures.items():
        console.print(f"{name}: {value}", highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", help="FILE, DIR, GLOB or several with commas")
    parser.add_argument("--bundle", type=Path, help="default: the version of models/volatility that answers")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--keep", type=Path, help="a folder for logs, joined.ndjson and the evaluation")
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
    return 0 if all(one.within(arguments.tolerance) for one in differences) else 1


if __name__ == "__main__":
    sys.exit(main())
