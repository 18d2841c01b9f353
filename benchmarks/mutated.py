"""Mutated messages and records against everything that reads them: nothing raises, and each ends in a known way.

    python -m benchmarks.mutated --count 1000000 --save
    python -m benchmarks.mutated --count 20000 --only markers --seed 7

Each reader gets valid and mutated input in turn. A mutated message must become a tick, a late tick, a gap or a dead
letter, or be ignored for a reason that is counted. Valid messages must still be read with the same values.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import math
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import header, machine
from benchmarks.mutations import Mutator
from benchmarks.sample_messages import binance_messages, coinbase_messages, other_messages, ticks
from benchmarks.stored import RESULTS
from common.schema import CORE_1
from pipeline.archive import read_archive
from pipeline.archive.entries import read_entry
from pipeline.feed.binance import BinanceDecoder
from pipeline.feed.coinbase import CoinbaseDecoder
from pipeline.feed.protocol import Decoder, Result
from pipeline.records import DeadLetter, Gap, LateTick, Tick, decode_dead, decode_late, decode_record, encode
from pipeline.stream.inspect import Inspection
from pipeline.stream.marker import Marker, from_metadata, to_metadata
from pipeline.stream.partition import Partition
from pipeline.stream.reconcile import Progress, Reconciliation
from pipeline.stream.snapshots import Snapshot, SnapshotReader, records_of
from volcast.v1 import FeatureRow, Prediction

MAX_NAMED = 20  # faults that are kept with their input
RECONNECT_EVERY = 200  # messages of a feed; a mutated number may make the rest of a connection old
BATCH = 50  # records of a partition at once
NOW_NS = 1_767_225_600_000_000_000  # of receipt; the market begins then
SECOND_NS = 10**9


@dataclass
class Tally:
    """Counts of the mutated and of the valid input of a reader, by result."""

    mutated: int = 0
    valid: int = 0
    ends: Counter[str] = field(default_factory=Counter)  # of mutated input
    valid_ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    named: list[str] = field(default_factory=list)

    def fault(self, kind: str, data: bytes) -> None:
        self.faults[kind] += 1
        if len(self.named) < MAX_NAMED:
            self.named.append(f"{kind}: {data[:400]!r}{'...' if len(data) > 400 else ''}")

    def raised(self, data: bytes) -> None:
        last = traceback.extract_tb(sys.exc_info()[2])[-1]
        error = sys.exc_info()[1]
        self.fault(f"raised {type(error).__name__} at {Path(last.filename).name}:{last.name}: {str(error)[:80]}", data)


# The feeds.


def run_feed(tally: Tally, count: int, seed: int, decoder: Decoder, messages: list[bytes]) -> None:
    """Mutated and valid messages in turn, on connections of RECONNECT_EVERY messages."""
    mutator = Mutator(seed, other_messages())
    values = {message: _only_tick(decoder, message) for message in messages}
    first = decoder
    for number in range(count):
        if number % RECONNECT_EVERY == 0:
            decoder = (decoder if number % (10 * RECONNECT_EVERY) else first).reconnected()
        valid = messages[number % len(messages)]
        damaged = mutator.any(valid)
        tally.mutated += 1
        try:
            _judge_results(tally, damaged, decoder.decode(damaged, NOW_NS, "mutated"))
            tally.valid += 1
            _judge_valid(tally, valid, values[valid], decoder.decode(valid, NOW_NS, "valid"))
        except Exception:
            tally.raised(damaged)


def _only_tick(decoder: Decoder, message: bytes) -> Tick:
    (tick,) = [each for each in decoder.reconnected().decode(message, NOW_NS, "valid") if isinstance(each, Tick)]
    return tick


def _judge_results(tally: Tally, damaged: bytes, results: Sequence[Result]) -> None:
    if not results:
        reason = ignored(damaged)
        tally.ends[f"ignored: {reason}"] += 1
        if reason == "unknown":
            tally.fault("ignored without a reason", damaged)
    for result in results:
        name = f"dead: {result.reason}" if isinstance(result, DeadLetter) else type(result).__name__.lower()
        tally.ends[name] += 1
        if isinstance(result, DeadLetter | LateTick | Gap | Tick) and not _survives(result):
            tally.fault("a record that cannot be read back", damaged)
        if isinstance(result, Tick) and not _is_sound(result):
            tally.fault("a tick that is not sound", damaged)


def _survives(record: Result) -> bool:
    value = encode(record)
    if isinstance(record, DeadLetter):
        return decode_dead(value) == record
    return (decode_late(value) if isinstance(record, LateTick) else decode_record(value)) == record


def _is_sound(tick: Tick) -> bool:
    numbers = tick.price, tick.bid, tick.ask, tick.bid_quantity, tick.ask_quantity
    in_range = 0 < tick.event_time_ns < 2**63 and 0 <= tick.sequence_num < 2**63
    return all(map(math.isfinite, numbers)) and 0 < tick.bid <= tick.ask and tick.price > 0 and in_range


def ignored(message: bytes) -> str:
    """The reason why a message without a record is not a loss."""
    tree = json.loads(message.decode())
    if not isinstance(tree, dict):
        return "unknown"
    if tree.get("channel") in ("heartbeats", "subscriptions"):
        return "heartbeat or acknowledgement"
    if tree.get("channel") == "ticker":
        events = tree.get("events") or []
        return "no ticker in it" if not any(event.get("tickers") for event in events) else "unknown"
    if "result" in tree or "lastUpdateId" in tree:
        return "reply"
    data = tree.get("data", tree)
    kind = str(data.get("e", "")) if isinstance(data, dict) else ""
    trade = str(tree.get("stream", "")).endswith("@trade") or kind == "trade"
    return "trade or another stream" if trade or (kind and kind != "bookTicker") else "unknown"


def _judge_valid(tally: Tally, message: bytes, expected: Tick, results: Sequence[Result]) -> None:
    """On time, or set aside for its number or time, since a mutated message before it had another."""
    for result in results:
        if isinstance(result, Gap):
            continue
        dead = isinstance(result, DeadLetter)
        name = f"dead: {result.reason}" if isinstance(result, DeadLetter) else type(result).__name__.lower()
        tally.valid_ends[name] += 1
        tick = result.tick if isinstance(result, LateTick) else result
        if dead and name == "dead: time_jumped_ahead":
            continue
        if isinstance(tick, Tick) and tick.product_id == expected.product_id:
            same = msgspec.structs.replace(tick, price=expected.price) == expected
            # Binance's price is that of the last trade, which may be mutated.
            if same and (tick.price == expected.price or tick.venue == "binance"):
                continue
        tally.fault("a valid message with another result", message)


# Records of ticks.raw.


class RawMessage:
    def __init__(self, value: bytes | None, offset: int) -> None:
        self._value, self._offset = value, offset

    def value(self) -> bytes | None:
        return self._value

    def offset(self) -> int:
        return self._offset


def run_records(tally: Tally, count: int, seed: int) -> None:
    """Batches of a partition, half of whose records are mutated."""
    mutator = Mutator(seed, other_messages())
    market = ticks(20_000)
    partition = Partition(0, CORE_1, 60 * SECOND_NS, "lineage", 0)
    inspection = Inspection()
    offset = position = 0
    while tally.mutated < count:
        if position + BATCH > len(market) or len(partition.codes) > 2_000:
            position, partition = 0, Partition(0, CORE_1, 60 * SECOND_NS, "lineage", 0)
        batch: list[RawMessage] = []
        good: dict[int, Tick] = {}
        for tick in market[position : position + BATCH // 2]:
            value: bytes = encode(tick)
            batch += [RawMessage(mutator.any(value), offset), RawMessage(value, offset + 1)]
            good[offset + 1] = tick
            offset += 2
        position += BATCH // 2
        tally.mutated, tally.valid = tally.mutated + len(good), tally.valid + len(good)
        try:
            for message in batch:
                inspection.raw(message.value() or b"", 0, message.offset())
            _judge_outcome(tally, partition, batch, good)
        except Exception:
            tally.raised(b"\n".join(message.value() or b"" for message in batch[::2]))
            partition = Partition(0, CORE_1, 60 * SECOND_NS, "lineage", 0)


def _judge_outcome(tally: Tally, partition: Partition, batch: list[RawMessage], good: dict[int, Tick]) -> None:
    outcome = partition.absorb(batch)
    ends: dict[int, str] = dict.fromkeys(outcome.offsets.tolist(), "tick")
    seen = Counter(ends.keys())
    for reason, at, _ in outcome.late:
        ends[at] = "latetick" if at not in good else f"late: {reason}"
        seen[at] += 1
    for dead_reason, _, at, _ in outcome.dead:
        ends[at] = f"dead: {dead_reason}"
        seen[at] += 1
    for message in batch:
        at, value = message.offset(), message.value() or b""
        end = ends.get(at) or ("gap" if _is_gap(value) else "lost")
        (tally.valid_ends if at in good else tally.ends)[end] += 1
        if end == "lost" or seen[at] > 1:
            tally.fault("a record with no end, or with two", value)
        if at in good and end not in ("tick", "late: time_jumped_back", "late: repeated", "dead: time_jumped_ahead"):
            tally.fault(f"a valid record is {end}", value)
    warm = outcome.features.values[outcome.features.warm]
    if not np.isfinite(warm).all():
        tally.fault("a warm row with a value that is not finite", b"")


def _is_gap(value: bytes) -> bool:
    return isinstance(decode_record(value), Gap)


# Records of ticks.features and predictions, and the stored state of a worker.


def run_protobuf(tally: Tally, count: int, seed: int) -> None:
    """Feature rows and predictions, as `volcast check` reads them."""
    rows, predictions = [], []
    for tick in ticks(50):
        source: dict[str, Any] = {
            "product_id": tick.product_id,
            "venue": tick.venue,
            "event_time_ns": tick.event_time_ns,
            "source_partition": 0,
            "source_offset": tick.sequence_num,
        }
        values = [1.0] * len(CORE_1)
        rows.append(FeatureRow(**source, schema_hash=CORE_1.hash, values=values, warm=True).SerializeToString())
        predictions.append(Prediction(**source, probability=0.5, threshold=0.5, model_name="m").SerializeToString())
    mutator = Mutator(seed, [*other_messages(), *rows, *predictions])
    inspection, books = Inspection(), Reconciliation("ticks.raw", {0: 0})
    for number in range(count):
        of_rows = number % 2 == 0
        damaged = mutator.protobuf((rows if of_rows else predictions)[number % 50])
        tally.mutated += 1
        before = inspection.faults.total()
        try:
            (inspection.features if of_rows else inspection.predictions)(damaged)
            (books.take_row if of_rows else books.take_prediction)(damaged, 0, number)
            books.take_aside(mutator.any(b'{"reason":"x","source":"ticks.raw[0]@12345"}'), 0, number)
        except Exception:
            tally.raised(damaged)
        tally.ends["fault of the check" if inspection.faults.total() > before else "read"] += 1
    account = books.account({0: Progress(10_000)})
    tally.ends["offsets that the check names"] += account.faults.total()


def run_snapshots(tally: Tally, count: int, seed: int) -> None:
    """Snapshots of a partition, restored; then the partition goes on."""
    market = ticks(700)
    messages = [RawMessage(encode(tick), number) for number, tick in enumerate(market)]
    partition = Partition(0, CORE_1, 0, "lineage", 0)
    partition.absorb(messages[:600])
    partition.mark_due()
    values = [value for snapshot in partition.due_snapshots("group") for _, value in records_of(snapshot)]
    expected = partition.absorb(messages[600:]).features.values.tobytes()
    mutator = Mutator(seed, [*values, *other_messages()])
    for number in range(count):
        damaged = mutator.raw(values[number % len(values)])
        others = [value for position, value in enumerate(values) if position != number % len(values)]
        tally.mutated += 1
        try:
            reader = SnapshotReader("group", 0, "lineage", 600)
            for value in (*others, damaged):
                reader.take(value)
            complete = reader.complete()
            if reader.unreadable:  # the worker reads the last ticks instead
                tally.ends["unreadable"] += 1
                continue
            _go_on(tally, complete, messages[600:], damaged, expected)
        except Exception:
            tally.raised(damaged)


def _go_on(tally: Tally, complete: list[Snapshot], rest: list[RawMessage], damaged: bytes, expected: bytes) -> None:
    partition = Partition(0, CORE_1, 0, "lineage", 0)
    try:
        partition.load(complete)
    except ValueError:
        tally.ends["another format"] += 1
        return
    partition.loaded()
    same = partition.absorb(rest).features.values.tobytes() == expected
    # A snapshot of another group is left out, which its absence shows.
    tally.ends["the same bits" if same else "other bits"] += 1
    if not same and len(complete) == 2:
        tally.fault("a damaged snapshot was used", damaged)


def run_markers(tally: Tally, count: int, seed: int) -> None:
    """The metadata of committed offsets."""
    valid = [to_metadata(Marker(1, "0123456789abcdef", 995 + n, n, 990 + n, NOW_NS)).encode() for n in range(20)]
    mutator = Mutator(seed, [*valid, *other_messages(), b"text of another program"])
    for number in range(count):
        damaged = mutator.any(valid[number % 20])
        tally.mutated += 1
        try:
            marker = from_metadata(damaged.decode(errors="surrogateescape"), 1000 + number % 20)
            if marker is None:
                tally.ends["void"] += 1
                continue
            tally.ends["read"] += 1
            numbers = marker.replay_from, marker.broken_at, marker.owed_since_ns, marker.owed_from or 0
            if not all(0 <= each < 2**63 for each in numbers):
                tally.fault("a marker beyond int64", damaged)
        except Exception:
            tally.raised(damaged)


# Files.


def run_entries(tally: Tally, count: int, seed: int) -> None:
    """Lines of archives in each form."""
    raw = coinbase_messages(100)
    lines = [b'{"ingest_time":"2026-01-01T00:00:00Z","product_id":"BTC-USD","payload":%b}' % each for each in raw]
    lines += [b"1767225600000000000 " + each for each in raw]
    lines += [b'{"volcast_archive":1,"venue":"coinbase","connection":1767225600000000000,"lost_messages":0}'] * 20
    mutator = Mutator(seed, [*other_messages(), *lines[:3]])
    for number in range(count):
        damaged = mutator.any(lines[number % len(lines)])
        tally.mutated += 1
        try:
            entry = read_entry(damaged)
            if not 0 <= entry.ingest_time_ns < 2**63:
                tally.fault("a time of receipt beyond int64", damaged)
            tally.ends["header" if entry.header else "damage" if entry.damage else "message"] += 1
        except Exception:
            tally.raised(damaged)


def run_files(tally: Tally, count: int, seed: int) -> None:
    """Recordings: archives, and flat files as NDJSON and CSV. Half of the lines are mutated."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(max(1, count // 500)):
            lines, name, mutator = _recording(number, seed)
            damaged = [mutator.any(line).replace(b"\n", b" ") for line in lines]
            file = Path(folder) / name
            head = [b"product,time,bid,ask,price,sequence"] if name.endswith("csv") else lines[:1]
            pairs = [each for pair in zip(damaged, lines, strict=True) for each in pair]
            file.write_bytes(b"\n".join([*head, *pairs]))
            tally.mutated, tally.valid = tally.mutated + len(damaged), tally.valid + len(lines)
            try:
                results = Counter(type(each).__name__.lower() for each in read_archive([file]))
                tally.ends += results
                if results["tick"] + results["latetick"] < len(lines) * 0.9:
                    tally.fault(f"{name}: too few ticks: {dict(results)}", b"")
            except Exception:
                tally.raised(b"\n".join(damaged))


def _recording(number: int, seed: int) -> tuple[list[bytes], str, Mutator]:
    market = ticks(500, seed=number % 7)
    mutator = Mutator(seed + number, other_messages()[-6:-3])
    if number % 3 == 0:
        return coinbase_messages(500), f"{number}.ndjson", mutator
    if number % 3 == 1:
        names = "product", "time", "bid", "ask", "price", "sequence"
        rows = [(t.product_id, t.event_time_ns, t.bid, t.ask, t.price, t.sequence_num) for t in market]
        return [json.dumps(dict(zip(names, row, strict=True))).encode() for row in rows], f"{number}.jsonl", mutator
    return [
        f"{t.product_id},{t.event_time_ns},{t.bid},{t.ask},{t.price},{t.sequence_num}".encode() for t in market
    ], f"{number}.csv", mutator  # fmt: skip


def run_coinbase(tally: Tally, count: int, seed: int) -> None:
    decoder = CoinbaseDecoder(max_future_ns=3600 * SECOND_NS)
    run_feed(tally, count, seed, decoder, coinbase_messages(RECONNECT_EVERY))


def run_coinbase_by_time(tally: Tally, count: int, seed: int) -> None:
    run_feed(tally, count, seed, CoinbaseDecoder(gap_after_ns=60 * SECOND_NS), coinbase_messages(RECONNECT_EVERY))


def run_binance(tally: Tally, count: int, seed: int) -> None:
    run_feed(tally, count, seed, BinanceDecoder(max_future_ns=3600 * SECOND_NS), binance_messages(RECONNECT_EVERY))


# Reader -> share of the count, in hundredths.
READERS: dict[str, tuple[int, Callable[[Tally, int, int], None]]] = {
    "coinbase": (30, run_coinbase),
    "coinbase, gaps by time": (5, run_coinbase_by_time),
    "binance": (15, run_binance),
    "ticks.raw": (25, run_records),
    "features and predictions": (10, run_protobuf),
    "snapshots": (5, run_snapshots),
    "markers": (3, run_markers),
    "lines of archives": (4, run_entries),
    "recordings": (3, run_files),
}


def run(count: int, seed: int, only: Sequence[str] = ()) -> Iterator[tuple[str, Tally]]:
    for name, (share, reader) in READERS.items():
        if not only or name in only:
            tally = Tally()
            reader(tally, max(1, count * share // 100), seed)
            yield name, tally


def show(console: Console, tallies: dict[str, Tally]) -> None:
    table = Table("reader", "mutated", "ends", "valid between", "of them as before", "faults")
    for name, tally in tallies.items():
        ends = ", ".join(f"{end} {count:,}" for end, count in tally.ends.most_common())
        as_before = tally.valid_ends["tick"] / tally.valid if tally.valid_ends else math.nan
        share = "" if math.isnan(as_before) else f"{as_before:.1%}"
        table.add_row(name, f"{tally.mutated:,}", ends, f"{tally.valid:,}", share, str(tally.faults.total()))
    console.print(table)
    for name, tally in tallies.items():
        for kind, count in tally.faults.most_common():
            console.print(f"{name}: {count:,} x {kind}", markup=False, highlight=False)
        for line in tally.named[:5]:
            console.print(f"  {line}", markup=False, highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="mutated messages and records, over all readers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", choices=list(READERS))
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/mutated.json")
    arguments = parser.parse_args()
    faulthandler.enable()
    console = Console(width=180 if not sys.stdout.isatty() else None)
    tallies: dict[str, Tally] = {}
    began_s = time.monotonic()
    for name, tally in run(arguments.count, arguments.seed, arguments.only or ()):
        tallies[name] = tally
        took_s = time.monotonic() - began_s
        console.print(f"{took_s:6.0f} s  {name}: {tally.mutated:,}, {tally.faults.total()} faults", highlight=False)
    command = f"python -m benchmarks.mutated --count {arguments.count}"
    header(console, command, f"seed {arguments.seed}, {time.monotonic() - began_s:.0f} s")
    show(console, tallies)
    if arguments.save:
        about = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "machine": machine(), "command": command}
        content = msgspec.json.encode({**about, "seed": arguments.seed, "readers": tallies})
        (RESULTS / "mutated.json").write_bytes(msgspec.json.format(content) + b"\n")
    return 1 if any(tally.faults for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
