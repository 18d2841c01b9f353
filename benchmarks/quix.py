"""The feature worker beside Quix Streams: core/1 features of the same ticks, exactly once, on the same broker.

Quix Streams runs in a separate environment, which the first run creates from benchmarks/peers/quix/requirements.txt.
Two products have 5 ticks/s each in event time, so a window of a minute holds 300 ticks. The state of Quix Streams grows
with the window. The last row of each product must equal ours.

    python -m benchmarks.quix [--rounds N] [--save]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from benchmarks.machine import header
from benchmarks.peers.environments import python_of
from benchmarks.processes import serving
from benchmarks.stored import store
from benchmarks.streaming import kafka, publish, ticks, worker_round
from benchmarks.targets import Row, at_least, paired_row, table
from common.config import KafkaConfig
from pipeline.features.table import compute_features
from pipeline.records import Tick

FOLDER = Path(__file__).resolve().parent / "peers" / "quix"
ROUNDS = 3
TICKS = 300_000
QUIX_TICKS = 60_000  # of the same topic; some seconds
TICKS_PER_S = 5.0
LIMIT_S = 180.0


def quix_round(python: Path, config: KafkaConfig, expected: dict[str, Any]) -> float:
    """Ticks per second of a new consumer group. Raises RuntimeError if it fails or computes other features."""
    out = f"quix-{time.time_ns()}"
    command = [python, FOLDER / "worker.py", config.bootstrap_servers, config.topics.raw, out, QUIX_TICKS]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"quix: {done.stderr.strip()[-500:]}")
    answer = msgspec.json.decode(done.stdout.splitlines()[-1])
    for product, row in answer["last_rows"].items():
        np.testing.assert_allclose(row, expected[product], rtol=1e-6, atol=1e-12, err_msg=f"quix: {product}")
    return float(answer["ticks_per_s"])


def last_rows(some: Sequence[Tick]) -> dict[str, Any]:
    """Our features of the last tick of each product."""
    features = compute_features(some).rows
    return dict(zip(features.product_ids, features.values, strict=True))


def measure(console: Console, rounds: int) -> list[Row]:
    python = python_of(FOLDER, console)
    figures: dict[str, list[float]] = {"quix": [], "features": [], "predictions": []}
    with kafka() as config, serving() as server:
        published = list(ticks(TICKS, TICKS_PER_S))
        publish(config, published)
        expected = last_rows(published[:QUIX_TICKS])
        worker_round(config, server, "exactly_once", TICKS)  # Kafka's JVM compiles
        for number in range(rounds):
            with console.status(f"round {number + 1} of {rounds}"):
                figures["features"].append(worker_round(config, None, "exactly_once", TICKS))
                figures["predictions"].append(worker_round(config, server, "exactly_once", TICKS))
                figures["quix"].append(quix_round(python, config, expected))
    version = dict(line.split("==") for line in (FOLDER / "requirements.txt").read_text().split())["quixstreams"]
    beside = f"Quix Streams {version}, features only"
    return [
        paired_row("worker, features only, exactly once", "ticks/s", figures["features"], beside, figures["quix"],
                   target=at_least(10)),
        paired_row("worker with predictions, exactly once", "ticks/s", figures["predictions"], beside, figures["quix"],
                   target=at_least(6.5)),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--save", action="store_true", help="stores the rows in benchmarks/results/quix.json")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    command = f"python -m benchmarks.quix --rounds {given.rounds}"
    rows = measure(console, given.rounds)
    how = (
        f"{given.rounds} rounds in turns; {TICKS:,} ticks, of which Quix reads {QUIX_TICKS:,}; {TICKS_PER_S:g} ticks/s"
    )
    header(console, command, how)
    console.print(table(rows))
    if given.save:
        store("quix", command, rows)


if __name__ == "__main__":
    main()
