"""core/1 features of ticks.raw with Quix Streams, exactly once, as its documentation does it.

The window of each product is a list in keyed state (RocksDB with a changelog topic). Arguments: bootstrap.servers,
topic to read, topic to write, number of ticks. Prints the rate, and the last row of each product, as JSON.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from bisect import bisect_right
from typing import Any

from quixstreams import Application, State

SECOND_NS = 1_000_000_000
WINDOW_NS = 60 * SECOND_NS

seen = {"first_s": 0.0}
last_rows: dict[str, list[float]] = {}


def features(tick: dict[str, Any], state: State) -> dict[str, Any]:
    if not seen["first_s"]:
        seen["first_s"] = time.perf_counter()
    now_ns, mid = tick["event_time_ns"], tick["bid"] + 0.5 * (tick["ask"] - tick["bid"])
    window = state.get("window", [])  # time, mid, squared move; oldest first
    move = math.log(mid / window[-1][1]) if window else 0.0
    window.append([now_ns, mid, move * move])
    times = [entry[0] for entry in window]
    # The mid as of a minute ago is needed too: the last tick at or before the window's start stays.
    start = max(0, bisect_right(times, now_ns - WINDOW_NS) - 1)
    window, times = window[start:], times[start:]
    state.set("window", window)
    inside = bisect_right(times, now_ns - WINDOW_NS)
    warm = inside > 0
    depth = tick["bid_quantity"] + tick["ask_quantity"]
    spread = tick["ask"] - tick["bid"]
    row = [
        tick["price"],
        mid,
        *(_return(window, times, now_ns, mid, seconds) for seconds in (1, 5, 30, 60)),
        math.sqrt(math.fsum(entry[2] for entry in window[inside:])) if warm else math.nan,
        (len(window) - inside) / 60 if warm else math.nan,
        spread,
        spread / mid,
        (tick["bid_quantity"] - tick["ask_quantity"]) / depth if depth else 0.0,
    ]
    last_rows[tick["product_id"]] = row
    return {
        "product_id": tick["product_id"],
        "event_time_ns": now_ns,
        "sequence_num": tick["sequence_num"],
        "values": row,
        "warm": warm,
    }


def _return(window: list[Any], times: list[int], now_ns: int, mid: float, seconds: int) -> float:
    place = bisect_right(times, now_ns - seconds * SECOND_NS)
    return math.log(mid / window[place - 1][1]) if place else math.nan


def main() -> None:
    servers, raw, out, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    with tempfile.TemporaryDirectory() as folder:
        application = Application(
            broker_address=servers,
            consumer_group=out,
            auto_offset_reset="earliest",
            processing_guarantee="exactly-once",
            state_dir=folder,
            loglevel="ERROR",
        )
        ticks = application.topic(raw, value_deserializer="json", key_deserializer="bytes")
        rows = application.topic(out, value_serializer="json", key_serializer="bytes")
        frame = application.dataframe(ticks)
        frame.apply(features, stateful=True).to_topic(rows)
        application.run(count=count, timeout=60, collect=False)
        took_s = time.perf_counter() - seen["first_s"]
    print(json.dumps({"ticks_per_s": count / took_s, "last_rows": last_rows}))


if __name__ == "__main__":
    main()
