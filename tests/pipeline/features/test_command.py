"""`volcast features` as it is typed."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.main import run_command
from common.schema import FULL_1
from pipeline.archive import read_archive
from pipeline.datasets import coinbase_ticker_2025, coinbase_ticker_2026
from pipeline.features.table import compute_features
from pipeline.parquet import read_features
from pipeline.records import decode_dead, decode_late

TICKER = {
    "type": "ticker",
    "product_id": "BTC-USD",
    "price": "60000.10",
    "volume_24_h": "1",
    "low_24_h": "1",
    "high_24_h": "1",
    "low_52_w": "1",
    "high_52_w": "1",
    "price_percent_chg_24_h": "1",
    "best_bid": "60000.00",
    "best_ask": "60000.02",
    "best_bid_quantity": "1.5",
    "best_ask_quantity": "0.5",
}

OUT = "data/processed/features.parquet"  # the default


def message(sequence: int, second: int, **changes: str) -> str:
    event = {"type": "update", "tickers": [TICKER | changes]}
    at = f"2026-04-05T22:{35 + second // 60:02}:{second % 60:02}.000000001Z"
    return json.dumps({"channel": "ticker", "timestamp": at, "sequence_num": sequence, "events": [event]})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recording(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def minutes(seconds: int = 90) -> list[str]:
    return [message(at, at, best_bid=f"{59999 + at % 2}") for at in range(seconds)]


def test_a_recording_becomes_a_parquet_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recording(here / "one.ndjson.gz", *minutes())
    assert run_command(["features", "--data-file", str(path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert {name: summary[name] for name in ("ticks", "features", "not_warm", "gaps", "late", "dead")} == {
        "ticks": 90,
        "features": 90,
        "not_warm": 60,
        "gaps": 0,
        "late": 0,
        "dead": 0,
    }
    rows = read_features(here / OUT)
    assert rows.values.tobytes() == compute_features(read_archive([path])).rows.values.tobytes()
    assert [file.name for file in (here / OUT).parent.iterdir()] == ["features.parquet"]


def test_a_recording_without_heartbeats_is_explained_and_read_by_time_on_request(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [message(2 * at, at) for at in range(90)]  # every other number was a heartbeat's
    path = recording(here / "one.ndjson", *lines)
    assert run_command(["features", "--data-file", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "not warm  90 " in shown
    assert "advice    sequence numbers jump every 1 s on average" in shown
    monkeypatch.setenv("VOLCAST_INGEST__GAP_AFTER_S", "30")
    assert run_command(["features", "--data-file", str(path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["not_warm"], summary["gaps"], summary["advice"]) == (60, 0, "")


def test_full_1_is_asked_for_by_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recording(here / "one.ndjson.gz", *minutes(400))
    assert run_command(["features", "--data-file", str(path), "--schema", "full/1", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["schema"], summary["schema_hash"]) == ("full/1", FULL_1.hash)
    assert (summary["features"], summary["not_warm"]) == (400, 300)
    rows = read_features(here / OUT, FULL_1)
    assert rows.values.tobytes() == compute_features(read_archive([path]), FULL_1).rows.values.tobytes()
    assert run_command(["features", "--data-file", str(path), "--schema", "full/1"]) == 0
    assert "not warm  300 (less than 300 s of unbroken history)" in capsys.readouterr().out


def test_what_is_refused_is_counted_and_kept_beside(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = minutes()
    lines[10] = lines[10][:50]
    lines[20] = message(20, 20, price="NaN")
    lines[30] = message(30, 25)
    path = recording(here / "one.ndjson", *lines)
    assert run_command(["features", "--data-file", str(path), "--out", "sub/f.parquet"]) == 0
    text = capsys.readouterr().out
    assert "kept in sub/f.parquet.dead.ndjson" in text
    assert "kept in sub/f.parquet.late.ndjson" in text
    dead = [decode_dead(line) for line in (here / "sub/f.parquet.dead.ndjson").read_bytes().splitlines()]
    assert [(one.reason, one.source.rsplit(":", 1)[1]) for one in dead] == [("not_json", "11"), ("not_finite", "21")]
    late = [decode_late(line) for line in (here / "sub/f.parquet.late.ndjson").read_bytes().splitlines()]
    assert [(one.reason, one.tick.sequence_num) for one in late] == [("time_jumped_back", 30)]
    recording(path, *minutes())
    assert run_command(["features", "--data-file", str(path), "--out", "sub/f.parquet"]) == 0
    assert [one.name for one in (here / "sub").iterdir()] == ["f.parquet"]  # of this run, not of the last


def test_without_a_file_the_most_recent_recording_is_read(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording(here / "data/raw/BTC-USD_20260405T000000Z.ndjson", *minutes(3))
    recording(here / "data/raw/BTC-USD_20260406T000000Z.ndjson", *minutes(5))
    assert run_command(["features", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ticks"] == 5


def test_several_files_are_one_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = recording(here / "a.ndjson", *minutes(3))
    second = recording(here / "b.ndjson", *[message(at, at + 60) for at in range(4)])
    assert run_command(["features", "--data-file", str(second), "--data-file", str(first), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["ticks"], summary["gaps_by_reason"]) == (7, {"reconnect": 1})
    times = read_features(here / OUT).event_time_ns.tolist()
    assert times == sorted(times)


def test_a_signal_leaves_what_was_there_and_nothing_else(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recording(here / "one.ndjson", "junk", *minutes())
    (here / OUT).parent.mkdir(parents=True)
    (here / OUT).write_text("of before")
    stop = threading.Event()
    stop.set()
    monkeypatch.setattr("pipeline.commands.features.stop_on_signals", lambda: stop)
    assert run_command(["features", "--data-file", str(path)]) == 130
    assert "was not written" in capsys.readouterr().err
    assert (here / OUT).read_text() == "of before"
    assert [file.name for file in (here / OUT).parent.iterdir()] == ["features.parquet"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data-file", "missing.ndjson"], "missing.ndjson: no such file"),
        (["--out", "features.csv"], "expected a name that ends in .parquet"),
        (["--nonsense"], "No such option"),
        (["--schema", "full/3"], "'full/3' is not one of 'core/1', 'full/1', 'full/2'"),
        (
            ["--data-file", "junk.ndjson"],
            "no tick in junk.ndjson: the format is not known; first reason, at junk",
        ),
        (["--config", "absent.yaml"], "absent.yaml: no such file"),
        ([], "data/raw: no such directory"),
        (["--data-file", "good.ndjson", "--out", "junk.ndjson/f.parquet"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    recording(here / "junk.ndjson", "junk")
    recording(here / "good.ndjson", *minutes(2))
    assert run_command(["features", *arguments]) != 0
    error = capsys.readouterr().err.strip()
    assert says in error
    assert "\n" not in error
    assert not (here / OUT).exists()


@pytest.mark.parametrize(
    ("files", "ticks", "gaps"), [(coinbase_ticker_2026, 5_970, 0), (coinbase_ticker_2025, 73_334, 29)]
)
def test_real_recordings_give_a_row_for_each_tick(
    here: Path, capsys: pytest.CaptureFixture[str], files: Callable[[], list[Path]], ticks: int, gaps: int
) -> None:
    if not files():
        pytest.skip("the Coinbase recordings are not on this machine (VOLCAST_DATA_DIR or ../shared/data)")
    paths = [argument for path in files() for argument in ("--data-file", str(path))]
    assert run_command(["features", *paths, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["ticks"], summary["features"], summary["gaps"]) == (ticks, ticks, gaps)
    rows = read_features(here / OUT)
    assert len(rows) == ticks
    assert rows.warm.sum() == ticks - summary["not_warm"] > 0
