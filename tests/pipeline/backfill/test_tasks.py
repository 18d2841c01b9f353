"""All days of a backfill together are the rows of the stream, bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from common.errors import InputError
from common.schema import CORE_1, FULL_1, FULL_2, FeatureSchema
from pipeline.archive import read_archive
from pipeline.backfill import tasks
from pipeline.backfill.days import Stretch
from pipeline.backfill.run import Totals
from pipeline.backfill.units import Recording, Unit, blocks, connections_in, recordings, units
from pipeline.datasets import coinbase_ticker_2025, coinbase_ticker_2026
from pipeline.features.columns import ProductCodes, TickColumns
from pipeline.features.table import FeatureTable, compute_features
from pipeline.parquet import read_features
from pipeline.records import Tick, decode_dead, decode_late
from tests.pipeline.backfill.recordings import DAY_NS, FIRST_DAY_NS, Feed, three_days

NO_FACTS = tasks.UnitFacts([], 0, Counter(), Counter(), Counter(), ())
BOTH = pytest.mark.parametrize("schema", [CORE_1, FULL_1, FULL_2], ids=lambda schema: schema.name)


def parted(files: Sequence[Path]) -> list[Unit]:
    found = recordings(files)
    return units(found, frozenset().union(*map(connections_in, blocks(found))))


def backfilled(files: Sequence[Path], out: Path, schema: FeatureSchema) -> Totals:
    return computed(parted(files), tasks.Plan(schema, out))


def computed(parts: Sequence[Unit], plan: tasks.Plan) -> Totals:
    totals, seen = Totals(), set[tuple[str, str]]()
    for unit in parts:
        ticks = tasks.read_unit(unit, plan)
        totals.add_unit(tasks.facts_of(ticks), seen)
        for day in reversed(ticks.facts.days):
            totals.add_day(tasks.compute_day(ticks, day, plan))
    return totals


def assert_is_the_stream(out: Path, totals: Totals, want: FeatureTable) -> None:
    """Rows of each product, day after day: a clock that jumps back over midnight goes on with the day that it left."""
    rows = read_features(out)
    assert sorted(set(rows.product_ids)) == sorted(set(want.rows.product_ids))
    for product in set(want.rows.product_ids):
        mine = np.flatnonzero(np.array(rows.product_ids) == product)
        stream = np.flatnonzero(np.array(want.rows.product_ids) == product)
        stream = stream[np.argsort(want.rows.event_time_ns[stream] // DAY_NS, kind="stable")]
        assert rows.values[mine].tobytes() == want.rows.values[stream].tobytes()
        for name in ("event_time_ns", "ingest_time_ns", "sequence_num", "warm"):
            assert getattr(rows, name)[mine].tolist() == getattr(want.rows, name)[stream].tolist()
    assert (totals.ticks, totals.features, totals.not_warm) == (
        want.counts.ticks,
        want.counts.features,
        want.counts.not_warm,
    )
    assert (totals.late, totals.dead) == (want.counts.late, want.counts.dead)


@BOTH
@pytest.mark.parametrize("files", [coinbase_ticker_2026, coinbase_ticker_2025])
def test_the_recordings(schema: FeatureSchema, files: Callable[[], list[Path]], tmp_path: Path) -> None:
    paths = files()
    if not paths:
        pytest.skip("the Coinbase recordings are not on this machine (VOLCAST_DATA_DIR or ../shared/data)")
    totals = backfilled(paths, tmp_path, schema)
    want = compute_features(read_archive(paths), schema)
    assert_is_the_stream(tmp_path, totals, want)
    assert totals.gaps == want.counts.gaps


@BOTH
@pytest.mark.parametrize("every_s", [1.0, 5.0])
def test_days_with_gaps_late_ticks_clock_jumps_and_quiet_products(
    schema: FeatureSchema, every_s: float, tmp_path: Path
) -> None:
    files = three_days(tmp_path / "in", every_s=every_s)
    assert len(parted(files)) == 3
    totals = backfilled(files, tmp_path / "out", schema)
    want = compute_features(read_archive(files), schema)
    assert_is_the_stream(tmp_path / "out", totals, want)
    assert min(totals.late.values()) >= 3
    assert {"time_jumped_back", "old_sequence"} <= totals.late.keys()
    assert totals.gaps["reconnect"] == want.counts.gaps["reconnect"] == 6
    assert totals.gaps["clock"] == want.counts.gaps["clock"] > 0
    overlaps = [
        stretch.start - stretch.first
        for unit in parted(files)
        for day in tasks.read_unit(unit, tasks.Plan(schema, tmp_path / "again")).facts.days
        for stretch in day.stretches
    ]
    assert sum(overlap > 0 for overlap in overlaps) >= 3


def test_what_is_refused_is_kept_beside_the_rows(tmp_path: Path) -> None:
    files = three_days(tmp_path / "in", every_s=5.0)
    totals = backfilled(files, tmp_path / "out", CORE_1)
    late, dead = Counter[str](), Counter[str]()
    for name in totals.refused_files:
        for line in (tmp_path / "out" / name).read_bytes().splitlines():
            if ".late." in name:
                late[decode_late(line).reason] += 1
            else:
                dead[decode_dead(line).reason] += 1
    assert late == totals.late
    assert dead == totals.dead
    assert dead["not_json"] > 0


def test_a_product_named_like_a_path_stays_in_its_folder(tmp_path: Path) -> None:
    day = tasks.ProductDay(7, "binance:../X", 20_548, ())
    assert day.file_stem == "binance%3A..%2FX_2026-04-05_00007"
    assert day.name == "binance:../X 2026-04-05, part 7"


def test_a_task_that_runs_twice_leaves_the_same(tmp_path: Path) -> None:
    (unit, *_) = parted(three_days(tmp_path / "in", every_s=5.0))
    ticks = tasks.read_unit(unit, tasks.Plan(CORE_1, tmp_path))
    first = tasks.compute_day(ticks, ticks.facts.days[0], tasks.Plan(CORE_1, tmp_path))
    kept = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert tasks.compute_day(ticks, ticks.facts.days[0], tasks.Plan(CORE_1, tmp_path)) == first
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "_refused").write_text("")
    with pytest.raises(InputError, match="_refused"):
        backfilled(three_days(tmp_path / "in", every_s=5.0), tmp_path, CORE_1)


def test_files_of_one_connection_stay_together(tmp_path: Path) -> None:
    feed = Feed(tmp_path, 1)
    files = []
    for number in range(40):
        feed.ticker(FIRST_DAY_NS + number * 3600 * 10**9)
        files.append(feed.roll())
        if number in (4, 29):
            feed.reconnect()
        if number == 35:
            feed.lose(1)  # a file that does not go on exactly where the last ended is another connection too
    assert [len(unit.recordings) for unit in parted(files)] == [30, 10]
    names = [path.name for unit in parted(files) for path in unit.paths]
    assert names == [path.name for path in files]
    begin = frozenset().union(*map(connections_in, blocks(recordings(files))))
    assert [files.index(path) for path in sorted(begin)] == [5, 30, 36]


def test_a_file_without_a_number_goes_with_the_file_before_it(tmp_path: Path) -> None:
    feed = Feed(tmp_path, 1)
    files = []
    for number in range(3):
        feed.line("not json", FIRST_DAY_NS) if number == 1 else feed.ticker(FIRST_DAY_NS + number * 10**9)
        files.append(feed.roll())
    assert connections_in(files) == frozenset()
    # Nothing before it to compare with: it cannot be said that the third begins a connection.
    assert connections_in(files[1:]) == frozenset()


def test_units_begin_where_a_connection_does_on_another_day() -> None:
    times = [0, DAY_NS - 1, DAY_NS, DAY_NS + 1, 2 * DAY_NS]
    found = [Recording(Path(str(number)), time_ns) for number, time_ns in enumerate(times)]
    begin = frozenset(Path(name) for name in "134")
    assert [[str(path) for path in unit.paths] for unit in units(found, begin)] == [["0", "1", "2"], ["3"], ["4"]]


def test_the_files_of_two_exchanges_are_parted_each_by_their_own_connections() -> None:
    times = [0, 1, DAY_NS, DAY_NS + 1]
    found = [Recording(Path(str(n)), time_ns, "ab"[n % 2]) for n, time_ns in enumerate(times)]
    begin = frozenset([Path("2")])
    assert [[str(path) for path in unit.paths] for unit in units(found, begin)] == [["0"], ["2"], ["1", "3"]]
    assert blocks(found) == [(Path("0"), Path("2")), (Path("1"), Path("3"))]


def test_a_late_tick_keeps_its_exchange(tmp_path: Path) -> None:
    late = Tick("BTCUSDT", FIRST_DAY_NS, 5, 2, 1.0, 1.0, 2.0, 3.0, 4.0, "binance")
    first = msgspec.structs.replace(late, event_time_ns=FIRST_DAY_NS + 1)
    ticks = tasks.UnitTicks({"BTCUSDT": TickColumns.from_records([first, late], ProductCodes())}, NO_FACTS)
    day = tasks.ProductDay(0, "BTCUSDT", FIRST_DAY_NS // DAY_NS, (Stretch(0, 0, 0, 2),), "binance")
    done = tasks.compute_day(ticks, day, tasks.Plan(CORE_1, tmp_path))
    (kept,) = (tmp_path / done.refused_files[0]).read_bytes().splitlines()
    assert decode_late(kept).tick == late
