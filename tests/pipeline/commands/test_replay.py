"""Recordings in time, and onto a real topic."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path

import msgspec
import pytest

from cli.main import run_command
from common.config import KafkaConfig
from pipeline.commands.replay import BATCH, paced
from pipeline.datasets import coinbase_ticker_2026
from pipeline.feed.protocol import Result
from pipeline.records import DeadLetter, Gap, LateTick, Tick, decode_dead, decode_record
from tests.pipeline.feed.messages import message
from tests.processes import as_environ, read_all

SECOND_NS = 1_000_000_000
TICK = Tick("BTC-USD", 0, 0, 0, 1.0, 1.0, 1.0, 1.0, 1.0)
DEAD = DeadLetter("not_json", "why", "FILE:1", "{")
LATE = LateTick("repeated", "FILE:2", TICK)


def at(second: float) -> Tick:
    return msgspec.structs.replace(TICK, event_time_ns=round(second * SECOND_NS))


class Clock(threading.Event):
    """A stop event that, waited for, moves the clock instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now_s = 100.0
        self.waits: list[float] = []
        self.stop_after: int | None = None
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self.now_s += timeout
        if self.stop_after is not None and len(self.waits) >= self.stop_after:
            self.set()
        return self.is_set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def seconds(batches: list[list[Result]]) -> list[list[float]]:
    return [[one.event_time_ns / SECOND_NS for one in batch if isinstance(one, Tick)] for batch in batches]


@pytest.mark.parametrize(("speed", "waits"), [(1.0, [2.0, 1.5]), (10.0, [0.2, 0.15])])
def test_records_come_when_they_are_due(speed: float, waits: list[float], clock: Clock) -> None:
    batches = list(paced(iter([at(0), at(0), at(2), at(3.5)]), speed, None, clock))
    assert seconds(batches) == [[0, 0], [2], [3.5]]
    assert clock.waits == pytest.approx(waits)


def test_at_full_speed_nothing_waits_and_batches_are_bounded(clock: Clock) -> None:
    batches = list(paced((at(second) for second in range(BATCH + 3)), math.inf, None, clock))
    assert [len(batch) for batch in batches] == [BATCH, 3]
    assert clock.waits == []


def test_a_hole_in_the_recording_is_not_waited_for(clock: Clock) -> None:
    gap = Gap("BTC-USD", 10_000 * SECOND_NS, 0, "reconnect", 0)
    list(paced(iter([at(0), gap, at(10_000), at(10_001)]), 1.0, None, clock))
    assert clock.waits == pytest.approx([1.0])


def test_the_duration_is_of_the_recording_from_its_first_record(clock: Clock) -> None:
    batches = list(paced((at(second) for second in range(50, 100)), 1.0, 3.0, clock))
    assert [second for batch in seconds(batches) for second in batch] == [50, 51, 52, 53]


def test_what_is_no_tick_comes_along_in_its_place(clock: Clock) -> None:
    batches = list(paced(iter([DEAD, at(0), LATE, at(1), DEAD]), 1.0, None, clock))
    assert [[type(one) for one in batch] for batch in batches] == [[DeadLetter, Tick, LateTick], [Tick, DeadLetter]]


def test_ticks_are_stamped_as_received_when_they_are_due() -> None:
    (batch,) = paced(iter([at(0)]), math.inf, None, threading.Event())
    (tick,) = batch
    assert isinstance(tick, Tick)
    assert tick.ingest_time_ns > 1_700_000_000 * SECOND_NS
    assert msgspec.structs.replace(tick, ingest_time_ns=0) == at(0)


def test_a_stop_ends_a_wait_and_what_was_due_is_out(clock: Clock) -> None:
    clock.stop_after = 2
    batches = list(paced((at(second) for second in range(100)), 1.0, None, clock))
    assert [second for batch in seconds(batches) for second in batch] == [0, 1]


def test_a_stop_at_full_speed_ends_soon(clock: Clock) -> None:
    clock.set()
    assert sum(map(len, paced((at(second) for second in range(100)), math.inf, None, clock))) <= 1


@pytest.fixture
def environ(kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KafkaConfig:
    for name, value in as_environ(kafka).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return kafka


def test_a_recording_is_put_on_the_topics_with_every_loss_counted(
    environ: KafkaConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [message(0), b"{", message(3, {"price": "1"}), message(2), message(4, {"price": "-1"})]
    Path("one.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    assert run_command(["replay", "one.ndjson", "--speed", "max", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["ticks"], said["gaps"], said["late"], said["dead"], said["published"]) == (2, 1, 1, 2, 3)
    records = [decode_record(one.value() or b"") for one in read_all(environ, environ.topics.raw, 3)]
    assert [type(one) for one in records] == [Tick, Gap, Tick]
    letters = [decode_dead(one.value() or b"") for one in read_all(environ, environ.topics.dead, 2)]
    assert [one.source for one in letters] == ["one.ndjson:2", "one.ndjson:5"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no tick in one.ndjson: it holds no message and no row"),
        (
            b"{\n[]\n",
            "no tick in one.ndjson: the format is not known; first reason, at one.ndjson:1: not_json: JSONDecodeError: "
            "Expecting property name enclosed in double quotes: line 1 column 2 (char 1); "
            "2 dead records are on ticks.dead",
        ),
    ],
)
def test_a_recording_without_a_tick_is_no_success(
    content: bytes, said: str, environ: KafkaConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("one.ndjson").write_bytes(content)
    assert run_command(["replay", "one.ndjson", "--speed", "max"]) == 1
    assert capfd.readouterr().err == f"volcast: {said.replace('ticks.dead', environ.topics.dead)}\n"


def test_a_second_replay_onto_the_same_topic_begins_with_a_gap(
    environ: KafkaConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("one.ndjson").write_bytes(message(0) + b"\n")
    for gaps in (0, 1):
        assert run_command(["replay", "one.ndjson", "--speed", "max", "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["gaps"] == gaps
    kinds = [type(decode_record(one.value() or b"")) for one in read_all(environ, environ.topics.raw, 3)]
    assert kinds == [Tick, Gap, Tick]


def test_what_the_topic_lacks_is_filled_and_the_rest_is_left(
    environ: KafkaConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path("data/raw")
    folder.mkdir(parents=True)
    lines = [message(number, {"price": str(number + 1)}) for number in range(6)]
    (folder / "BTC-USD_20260101T000000Z.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    Path("part.ndjson").write_bytes(b"\n".join(lines[:4]) + b"\n")
    assert run_command(["replay", "part.ndjson", "--speed", "max"]) == 0
    capfd.readouterr()
    for missing in (2, 0):
        assert run_command(["replay", "--missing", "--json"]) == 0
        answer = json.loads(capfd.readouterr().out)
        assert (answer["ticks"], answer["gaps"]) == (missing, 0)
    records = [decode_record(each.value() or b"") for each in read_all(environ, environ.topics.raw, 6)]
    assert [each.sequence_num if isinstance(each, Tick) else each.reason for each in records] == [0, 1, 2, 3, 4, 5]


def test_a_flat_recording_is_replayed_and_its_columns_are_reported(
    environ: KafkaConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("quotes.csv").write_text("ts,symbol,bid,ask\n1767600000794,BTC-USD,99.5,100.5\n")
    assert run_command(["replay", "quotes.csv", "--speed", "max"]) == 0
    assert "quotes.csv: CSV, one row per tick: product=symbol, time=ts" in capfd.readouterr().err
    (record,) = [decode_record(each.value() or b"") for each in read_all(environ, environ.topics.raw, 1)]
    assert isinstance(record, Tick)
    assert (record.bid, record.bid_quantity) == (99.5, 0.0)


def test_without_a_file_the_most_recent_archive_is_replayed(
    environ: KafkaConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path("data/raw")
    folder.mkdir(parents=True)
    (folder / "BTC-USD_20260101T000000Z.ndjson").write_bytes(message(0) + b"\n" + message(1, {"price": "2"}) + b"\n")
    (folder / "BTC-USD_20250101T000000Z.ndjson").write_bytes(message(0) + b"\n")
    assert run_command(["replay", "--speed", "max"]) == 0
    assert capfd.readouterr().out.startswith("replayed 2 ticks, 0 gaps, 0 late, 0 dead in ")


def test_minutes_of_the_real_recording(environ: KafkaConfig, capfd: pytest.CaptureFixture[str]) -> None:
    files = coinbase_ticker_2026()
    if not files:
        pytest.skip("the recording of 2026-04-05 is not here (VOLCAST_DATA_DIR)")
    assert run_command(["replay", str(files[0]), "--speed", "max", "--duration", "5", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert 1000 < said["ticks"] < 2000
    records = [decode_record(one.value() or b"") for one in read_all(environ, environ.topics.raw, said["ticks"])]
    assert records[-1].event_time_ns - records[0].event_time_ns <= 300 * SECOND_NS
