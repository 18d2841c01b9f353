"""The worker on in-memory ports: what goes where, what is counted, what is committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from confluent_kafka import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DeadlineError, OverloadedError, RequestError, UnavailableError, VolcastError
from common.schema import CORE_1, FULL_1, FeatureSchema
from pipeline.features.columns import TickColumns
from pipeline.features.table import compute_features
from pipeline.records import DeadLetter, DeadReason, Gap, LateTick, Tick, decode_dead, decode_late, encode
from pipeline.stream.forecast import JOINED_ROWS, MAX_RETRY_S, MIN_RETRY_S
from pipeline.stream.marker import from_metadata
from pipeline.stream.transactions import AbortedError
from tests.pipeline.features.markets import markets
from tests.pipeline.stream.fakes import TOPICS, Bench, FakeMessage, answer, messages_of
from tests.pipeline.stream.ticks import market
from volcast.v1 import FeatureRow, MissingReason, Prediction

SOUND = Tick("BTC-USD", 1_000_000_000, 5, 3, 100.0, 99.0, 101.0, 1.0, 2.0)


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return 2**61


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    fake = SimpleNamespace(monotonic=clock.monotonic, time_ns=clock.time_ns)
    monkeypatch.setattr("pipeline.stream.forecast.time", fake)
    monkeypatch.setattr("pipeline.stream.worker.time", fake)
    return clock


def cut(messages: Sequence[FakeMessage], sizes: Sequence[int]) -> list[Sequence[FakeMessage]]:
    batches, done, turn = [], 0, 0
    while done < len(messages):
        size = sizes[turn % len(sizes)]
        batches.append(messages[done : done + size])
        done, turn = done + size, turn + 1
    return batches


def outcome(bench: Bench) -> dict[str, Any]:
    """All that was sent, by topic and key, without the latencies, which are the machine's."""
    sent: dict[str, Any] = {
        topic: dict(keys) for topic, keys in bench.delivery.sent.items() if topic != TOPICS.predictions
    }
    predictions = [Prediction.FromString(value) for value in bench.delivery.values(TOPICS.predictions)]
    by_product: dict[str, list[bytes]] = {}
    for one in predictions:
        one.latency_ns = 0
        by_product.setdefault(one.product_id, []).append(one.SerializeToString(deterministic=True))
    sent[TOPICS.predictions] = by_product
    sent.pop(TOPICS.snapshots, None)
    sent["counts"] = {key: value for key, value in bench.worker.stats().items() if key != "latency_ms"}
    return sent


DAMAGED = st.sampled_from([b"", b"{", b"null", b'{"type":"tick"}', encode(msgspec.structs.replace(SOUND, bid=102.0))])


@settings(max_examples=60)
@given(st.data())
def test_however_messages_are_cut_into_batches_what_comes_out_is_the_same(data: st.DataObject) -> None:
    values: list[Any] = list(data.draw(markets()))
    for damaged in data.draw(st.lists(DAMAGED, max_size=4)):
        values.insert(data.draw(st.integers(0, len(values))), damaged)
    messages = messages_of(values)
    at_once = outcome(Bench([messages]).run())
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    assert outcome(Bench(cut(messages, sizes)).run()) == at_once


@pytest.mark.parametrize("schema", [CORE_1, FULL_1], ids=lambda schema: schema.name)
def test_features_are_those_of_the_offline_path_bit_for_bit(schema: FeatureSchema) -> None:
    ticks = market(4000, rate_per_s=2)
    bench = Bench(cut(messages_of(ticks), [1, 7, 300]), schema=schema).run()
    offline = compute_features(ticks, schema).rows
    rows = {(row.product_id, row.sequence_num): row for row in bench.delivery.features()}
    assert len(rows) == len(offline) == 4000
    assert offline.warm.sum() > 1000
    for number, product in enumerate(offline.product_ids):
        row = rows[product, int(offline.sequence_num[number])]
        assert np.array(row.values).tobytes() == offline.values[number].tobytes()
        assert (row.warm, row.schema_hash) == (offline.warm[number], schema.hash)
        assert (row.event_time_ns, row.ingest_time_ns) == (
            offline.event_time_ns[number],
            offline.ingest_time_ns[number],
        )


def test_each_warm_row_has_the_prediction_of_its_own_values_and_no_other_row_has_one() -> None:
    bench = Bench(cut(messages_of(market(1500)), [13])).run()
    warm = {(row.product_id, row.sequence_num): row for row in bench.delivery.features() if row.warm}
    predictions = bench.delivery.predictions()
    assert bench.worker.totals.predictions == len(predictions) == len(warm) > 500
    assert bench.worker.totals.not_warm == 1500 - len(warm)
    for one in predictions:
        row = warm.pop((one.product_id, one.sequence_num))
        assert one.probability == answer(np.array([row.values]))[0]
        assert (one.event_time_ns, one.model_name, one.model_version) == (row.event_time_ns, "fake", "7")
        assert (one.threshold, one.missing_reason) == (0.5, MissingReason.MISSING_REASON_UNSPECIFIED)
        assert one.latency_ns > 0
    assert not warm
    assert bench.worker.stages.total.count == len(predictions)


@pytest.mark.parametrize(("schema", "model"), [(CORE_1, ""), (CORE_1, "other"), (FULL_1, "volatility-full")])
def test_rows_of_the_schema_are_asked_of_the_model(schema: FeatureSchema, model: str) -> None:
    bench = Bench([messages_of(market(4000, rate_per_s=2))], schema=schema, model=model).run()
    warm = {(row.product_id, row.sequence_num): row for row in bench.delivery.features() if row.warm}
    predictions = {(one.product_id, one.sequence_num): one.probability for one in bench.delivery.predictions()}
    assert predictions == {key: answer(np.array([row.values]))[0] for key, row in warm.items()} != {}


def test_latencies_are_kept_by_stage() -> None:
    bench = Bench([messages_of(market(1000))]).run()
    stages = bench.worker.stages
    counts = {one.count for one in (stages.transport, stages.features, stages.predict, stages.total)}
    assert counts == {bench.worker.totals.predictions} != {0}
    assert set(bench.worker.stats()["latency_ms"]) == {"transport", "features", "predict", "total"}


def tick_json(**changed: object) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(SOUND), **changed})


@pytest.mark.parametrize(
    ("raw", "reason", "detail"),
    [
        (None, "not_json", "truncated"),
        (b"", "not_json", "truncated"),
        (b"{", "not_json", "truncated"),
        (b"tick", "not_json", "malformed"),
        (b"\xff\xfe", "not_json", "malformed"),
        (tick_json().replace(b"100.0", b"NaN"), "not_json", "malformed"),
        (tick_json().replace(b"BTC", b"B\xff"), "not_json", "utf-8"),
        (b'{"a":' + b"[" * 140_000, "not_json", "while deserializing an object|truncated"),  # Python 3.14 nests deeper
        (b"[]", "wrong_shape", "Expected `object`"),
        (b'{"type":"trade"}', "wrong_shape", "Invalid value 'trade' - at `$.type`"),
        (b'{"type":"tick"}', "wrong_shape", "missing required field `product_id`"),
        (tick_json(price="100"), "wrong_shape", "$.price"),
        (tick_json(price=None), "wrong_shape", "$.price"),
        (tick_json().replace(b"100.0", b"1e999"), "wrong_shape", "$.price"),
        (tick_json(event_time_ns=10**30), "wrong_shape", "$.event_time_ns"),
        (tick_json(event_time_ns=2**63), "wrong_shape", "$.event_time_ns"),
        (tick_json(event_time_ns=-1), "wrong_shape", "$.event_time_ns"),
        (tick_json(sequence_num=-1), "wrong_shape", "$.sequence_num"),
        (tick_json(ingest_time_ns=2**64), "wrong_shape", "$.ingest_time_ns"),
        (tick_json(product_id=""), "wrong_shape", "$.product_id"),
        (tick_json(product_id="X" * 101), "wrong_shape", "$.product_id"),
        (tick_json(price=0.0), "not_positive", "price: expected a positive number, got 0.0"),
        (tick_json(price=-1), "not_positive", "price: expected a positive number, got -1.0"),
        (tick_json(bid=-2.5), "not_positive", "bid: expected a positive number, got -2.5"),
        (tick_json(ask=0), "not_positive", "ask: "),
        (tick_json(bid_quantity=-1e-9), "not_positive", "bid_quantity: "),
        (tick_json(ask_quantity=-1), "not_positive", "ask_quantity: "),
        (tick_json(bid=101.5), "crossed_quote", "bid: expected at most the ask 101.0, got 101.5"),
    ],
)
def test_what_is_no_tick_is_kept_with_reason_and_source_and_the_rest_goes_on(
    raw: bytes | None, reason: DeadReason, detail: str
) -> None:
    before, after = messages_of([SOUND, msgspec.structs.replace(SOUND, event_time_ns=2 * 10**9)])
    bad = FakeMessage(raw, 41)
    bench = Bench([[before, bad, FakeMessage(after.raw, 42)]]).run()
    (letter,) = map(decode_dead, bench.delivery.values(TOPICS.dead))
    assert (letter.reason, letter.source) == (reason, "ticks.raw[0]@41")
    assert any(part in letter.detail for part in detail.split("|"))
    assert letter == DeadLetter.of(cast(DeadReason, letter.reason), letter.detail, letter.source, raw or b"")
    assert bench.worker.totals.records.dead == {reason: 1}
    assert bench.worker.totals.features == 2
    assert bench.delivery.offsets[0] == 43


def test_zero_quantities_and_a_locked_quote_are_sound() -> None:
    sound = [
        msgspec.structs.replace(SOUND, bid_quantity=0.0, ask_quantity=0.0),
        msgspec.structs.replace(SOUND, bid=101.0, event_time_ns=2 * 10**9),
    ]
    assert Bench([messages_of(sound)]).run().worker.totals.features == 2


def test_of_a_message_too_large_for_kafka_the_beginning_is_kept() -> None:
    bench = Bench([[FakeMessage(b"\x01" * 900_000, 7)]]).run()
    (raw,) = bench.delivery.values(TOPICS.dead)
    assert len(raw) < 1_000_000
    assert "(the first 150000 of 900000 characters are kept)" in decode_dead(raw).detail


def test_late_and_repeated_ticks_are_kept_with_reason_and_source() -> None:
    later = msgspec.structs.replace(SOUND, event_time_ns=2 * 10**9)
    bench = Bench([messages_of([later, SOUND, later])]).run()
    late = [decode_late(value) for value in bench.delivery.values(TOPICS.late)]
    assert late == [
        LateTick("time_jumped_back", "ticks.raw[0]@1", SOUND),
        LateTick("repeated", "ticks.raw[0]@2", later),
    ]
    assert bench.worker.totals.records.late == {"time_jumped_back": 1, "repeated": 1}
    assert bench.worker.totals.features == 1


def test_gaps_are_counted_and_start_windows_anew() -> None:
    ticks = market(1000)
    gap = Gap("BTC-USD", ticks[800].event_time_ns, 0, "sequence", 3)
    bench = Bench([messages_of([*ticks[:800], gap, *ticks[800:]])]).run()
    assert bench.worker.totals.records.gaps == {"sequence": 1}
    after = [row for row in bench.delivery.features() if row.sequence_num >= 800]
    assert not any(row.warm for row in after if row.product_id == "BTC-USD")
    assert all(row.warm for row in after if row.product_id == "ETH-USD")


def test_every_record_is_accounted_for() -> None:
    values: list[Any] = [*market(50), b"{", Gap("BTC-USD", 1, 1, "reconnect", 0), SOUND, SOUND]
    stats = Bench([messages_of(values)]).run().worker.stats()
    assert stats["consumed"] == len(values)
    assert stats["features"] + stats["late"] + stats["dead"] + stats["gaps"] == len(values)


class Failures:
    """Ways in which an inference server does not answer, each the client's own error."""

    ALL = (
        lambda: UnavailableError("away"),
        lambda: DeadlineError("no answer within 1 s"),
        lambda: OverloadedError("queue is full", 0.1),
        lambda: VolcastError("INTERNAL"),
    )


@pytest.mark.parametrize("failure", Failures.ALL)
def test_rows_wait_in_order_for_a_server_that_is_away_and_features_go_on(failure: Any, clock: Clock) -> None:
    ticks = market(1500)
    reference = Bench([messages_of(ticks)]).run()
    batches = cut(messages_of(ticks), [100])
    bench = Bench()
    for number, batch in enumerate(batches):
        bench.stream.failure = failure if 6 <= number < 12 else None
        bench.feed(batch)
        clock.now_s += MIN_RETRY_S / 2
    assert bench.worker.totals.features == 1500
    clock.now_s += MAX_RETRY_S
    bench.worker.step(0.1)
    assert bench.forecaster.backlog_rows == 0
    assert outcome(bench)[TOPICS.predictions] == outcome(reference)[TOPICS.predictions]
    assert bench.stream.rows_answered == bench.worker.totals.predictions  # none asked for again once answered


def test_while_the_server_is_away_it_is_not_asked_for_every_tick(clock: Clock) -> None:
    bench = Bench()
    ticks = market(1500)
    bench.feed(messages_of(ticks[:1000]))
    asked = len(bench.stream.frames)
    bench.stream.failure = lambda: UnavailableError("away")
    for message in messages_of(ticks)[1000:1100]:
        bench.feed([message])
    assert len(bench.stream.frames) == asked + 1
    clock.now_s += MIN_RETRY_S
    bench.feed(messages_of(ticks)[1100:1101])
    assert len(bench.stream.frames) == asked + 2
    for _ in range(40):  # the wait doubles, up to its limit
        clock.now_s += MAX_RETRY_S
        bench.worker.step(0.1)
    assert len(bench.stream.frames) == asked + 42


def test_a_backlog_of_single_rows_takes_few_frames(clock: Clock) -> None:
    bench = Bench()
    messages = messages_of(market(3500))
    bench.feed(messages[:1000])
    bench.stream.failure = lambda: UnavailableError("away")
    for message in messages[1000:]:
        bench.feed([message])
    asked = len(bench.stream.frames)
    bench.stream.failure = None
    clock.now_s += MAX_RETRY_S
    bench.worker.step(0.1)
    frames = bench.stream.frames[asked:]
    assert sum(frames) == 2500
    assert len(frames) == 1 + 2500 // JOINED_ROWS
    assert bench.worker.stages.predict.count == bench.worker.totals.predictions
    for values in bench.delivery.sent[TOPICS.predictions].values():
        order = [Prediction.FromString(value).sequence_num for value in values]
        assert order == sorted(set(order))


def test_over_the_limit_the_oldest_are_marked_missing_with_the_reason(clock: Clock) -> None:
    bench = Bench(limit_rows=700)
    bench.stream.failure = lambda: UnavailableError("away")
    for batch in cut(messages_of(market(2000)), [250]):
        bench.feed(batch)
    warm = [row for row in bench.delivery.features() if row.warm]
    missing = bench.delivery.predictions()
    assert bench.forecaster.backlog_rows <= 700
    assert len(missing) + bench.forecaster.backlog_rows == len(warm)
    assert {one.missing_reason for one in missing} == {MissingReason.MISSING_REASON_SERVER_UNAVAILABLE}
    assert bench.worker.totals.missing == {"server_unavailable": len(missing)}
    assert bench.worker.stats()["missing"] == len(missing)
    assert not any(one.HasField("probability") for one in missing)
    bench.stream.failure = None
    clock.now_s += MAX_RETRY_S
    bench.worker.step(0.1)
    answered = Counter((one.product_id, one.sequence_num) for one in bench.delivery.predictions())
    assert answered == Counter((row.product_id, row.sequence_num) for row in warm)
    given_up, kept = {one.sequence_num for one in missing}, bench.delivery.predictions()
    assert max(given_up) < min(one.sequence_num for one in kept if not one.missing_reason)


def test_refused_rows_are_marked_missing_and_the_next_are_asked_for() -> None:
    bench = Bench()
    messages = messages_of(market(1500))
    bench.feed(messages[:1000])
    answered = bench.worker.totals.predictions
    bench.stream.failure = lambda: RequestError.of("packed.values", "too many rows")
    bench.feed(messages[1000:1200])
    bench.stream.failure = None
    bench.feed(messages[1200:])
    reasons = Counter(one.missing_reason for one in bench.delivery.predictions())
    assert reasons == {
        MissingReason.MISSING_REASON_UNSPECIFIED: answered + 300,
        MissingReason.MISSING_REASON_REFUSED: 200,
    }
    assert bench.worker.totals.missing == {"refused": 200}


@pytest.mark.parametrize("rows", [0, 1, 199])
def test_an_answer_of_another_length_is_no_answer(rows: int) -> None:
    bench = Bench()
    messages = messages_of(market(1200))
    bench.feed(messages[:1000])
    bench.stream.answer_rows = rows
    bench.feed(messages[1000:])
    assert bench.worker.totals.missing == {"refused": 200}


class ListWriter:
    """A FeatureWriter that keeps what it was given."""

    def __init__(self) -> None:
        self.products: list[str] = []
        self.sequences: list[int] = []
        self.values: list[Any] = []
        self.looks = 0

    def write(self, product_ids: Sequence[str], ticks: TickColumns, values: Any, warm: Any) -> None:
        assert len(product_ids) == len(ticks.event_time_ns) == len(values) == len(warm)
        self.products += product_ids
        self.sequences += ticks.sequence_num.tolist()
        self.values.append(values)

    def roll_if_due(self) -> None:
        self.looks += 1


def test_every_feature_row_is_kept_before_its_offset_is_committed() -> None:
    writer = ListWriter()
    ticks = market(600)
    Bench(cut(messages_of([*ticks[:300], ticks[0], *ticks[300:]]), [7]), writer=writer).run()
    assert writer.products == [tick.product_id for tick in ticks]
    assert writer.sequences == [tick.sequence_num for tick in ticks]
    assert np.concatenate(writer.values).tobytes() == compute_features(ticks).rows.values.tobytes()


def test_a_quiet_feed_still_gives_the_parquet_file_its_end() -> None:
    writer = ListWriter()
    bench = Bench([messages_of(market(10))], writer=writer).run()
    looks = writer.looks
    bench.worker.commit()
    assert writer.looks > looks


def test_a_prediction_that_is_missing_still_says_which_row_it_was(clock: Clock) -> None:
    bench = Bench(limit_rows=0)
    bench.stream.failure = lambda: UnavailableError("away")
    ticks = market(1000)
    bench.feed(messages_of(ticks))
    expected = {(row.product_id, row.event_time_ns, row.sequence_num) for row in bench.delivery.features() if row.warm}
    got = [(one.product_id, one.event_time_ns, one.sequence_num) for one in bench.delivery.predictions()]
    assert sorted(got) == sorted(expected)
    assert all(isinstance(one, Prediction) and one.latency_ns > 0 for one in bench.delivery.predictions())


def warm_rows(bench: Bench) -> Counter[tuple[int, int]]:
    return Counter((row.source_partition, row.source_offset) for row in bench.delivery.features() if row.warm)


def predicted_rows(bench: Bench) -> Counter[tuple[int, int]]:
    return Counter((one.source_partition, one.source_offset) for one in bench.delivery.predictions())


def test_a_commit_waits_for_no_answer_and_says_from_where_on_predictions_are_owed(clock: Clock) -> None:
    bench = Bench()
    messages = messages_of(market(2000))
    bench.feed(messages[:1000])
    bench.stream.failure = lambda: UnavailableError("away")
    for batch in cut(messages[1000:], [100]):
        bench.feed(batch)
    assert bench.delivery.offsets[0] == 2000
    marker = from_metadata(bench.delivery.metadata[0])
    assert marker is not None
    assert marker.owed_from == 1000
    bench.stream.failure = None
    clock.now_s += MAX_RETRY_S
    bench.worker.step(0.1)
    settled = from_metadata(bench.delivery.metadata[0])
    assert settled is not None
    assert settled.owed_from is None
    assert predicted_rows(bench) == warm_rows(bench)


def test_a_hanging_server_holds_a_step_no_longer_than_until_the_next_commit(clock: Clock) -> None:
    bench = Bench(commit_interval_s=0.1)
    waits: list[float] = []
    poll = bench.stream.poll

    def watch(timeout_s: float) -> Any:
        waits.append(timeout_s)
        return poll(timeout_s)

    bench.stream.poll = watch  # type: ignore[method-assign]
    bench.stream.hangs = True
    bench.feed(messages_of(market(1500)))
    assert waits
    assert max(waits) <= 0.1 + 1e-9
    clock.now_s += 0.1
    bench.worker.step(0.1)
    assert bench.delivery.offsets[0] == 1500


def test_an_aborted_transaction_is_done_again_from_what_is_committed(clock: Clock) -> None:
    messages = messages_of(market(1500))
    bench = Bench(commit_interval_s=10.0)
    bench.feed(messages[:700])
    bench.worker.commit()
    features, predictions = len(bench.delivery.features()), len(bench.delivery.predictions())
    bench.feed(messages[700:])
    bench.delivery.failure = AbortedError("fenced")
    clock.now_s += 10.0
    bench.worker.step(0.1)
    bench.worker.step(0.1)
    assert bench.state.asked[-1] == [0, 1, 2, 3]
    assert bench.delivery.aborts > 0
    assert (len(bench.delivery.features()), len(bench.delivery.predictions())) == (features, predictions)
    assert bench.worker.totals.features == 700
    assert bench.worker.totals.consumed == 700
    assert bench.forecaster.backlog_rows == 0


def test_a_commit_that_kafka_refuses_for_good_ends_the_worker(clock: Clock) -> None:
    bench = Bench()
    bench.delivery.failure = UnavailableError("kafka: offsets cannot be committed")
    with pytest.raises(UnavailableError, match=r"^kafka: offsets cannot be committed"):
        bench.feed(messages_of(market(10)))


def test_a_commit_with_nothing_new_is_not_sent() -> None:
    bench = Bench([messages_of(market(10))]).run()
    commits = bench.delivery.commits
    bench.worker.commit()
    bench.worker.step(0.0)
    assert bench.delivery.commits == commits


def test_what_is_in_hand_is_committed_before_partitions_are_given_up() -> None:
    bench = Bench(commit_interval_s=100.0)
    left, right = market(800), market(800, seed=6)
    bench.feed([FakeMessage(encode(tick), n, 0) for n, tick in enumerate(left)])
    bench.feed([FakeMessage(encode(tick), n, 1) for n, tick in enumerate(right)])
    bench.revoke(1)
    assert bench.delivery.offsets == {0: 800, 1: 800, 2: 0, 3: 0}
    assert predicted_rows(bench) == warm_rows(bench)


def test_a_rebalance_leaves_the_partitions_that_stay_alone() -> None:
    ticks = market(1500)
    bench = Bench()
    bench.feed([FakeMessage(encode(tick), n, 0) for n, tick in enumerate(ticks[:1000])])
    bench.revoke(1, 2)
    bench.assign(2)
    bench.feed([FakeMessage(encode(tick), n + 1000, 0) for n, tick in enumerate(ticks[1000:])])
    offline = compute_features(ticks).rows
    got = {(row.product_id, row.sequence_num): np.array(row.values).tobytes() for row in bench.delivery.features()}
    assert got == {
        (product, int(offline.sequence_num[i])): offline.values[i].tobytes()
        for i, product in enumerate(offline.product_ids)
    }
    assert 1 not in bench.consumer.assigned


def test_rows_of_a_partition_that_was_given_up_are_predicted_by_its_new_owner_alone(clock: Clock) -> None:
    bench = Bench()
    bench.stream.failure = lambda: UnavailableError("away")
    bench.feed([FakeMessage(encode(tick), n, 1) for n, tick in enumerate(market(800))])
    marker = from_metadata(bench.delivery.metadata[1])
    assert marker is not None
    assert marker.owed_from is not None
    bench.revoke(1)
    bench.stream.failure = None
    clock.now_s += MAX_RETRY_S
    bench.worker.step(0.1)
    assert bench.delivery.predictions() == []
    assert bench.forecaster.backlog_rows == 0


def test_partitions_that_were_lost_are_not_committed() -> None:
    bench = Bench(commit_interval_s=100.0)
    bench.feed(messages_of(market(100)))
    lost = [TopicPartition(TOPICS.raw, 0)]
    bench.worker.on_lost(bench.consumer, lost)  # type: ignore[arg-type]
    assert bench.delivery.features() == []
    bench.worker.step(0.0)
    assert 0 not in bench.delivery.offsets


def test_rows_reach_parquet_only_when_they_are_committed(clock: Clock) -> None:
    writer = ListWriter()
    bench = Bench(writer=writer, commit_interval_s=10.0)
    bench.feed(messages_of(market(100)))
    assert writer.products == []
    bench.delivery.failure = AbortedError("fenced")
    clock.now_s += 10.0
    bench.worker.step(0.1)
    bench.worker.step(0.1)
    assert writer.products == []
    bench.feed(messages_of(market(100)))
    bench.worker.commit()
    assert len(writer.products) == 100


def test_two_venues_may_use_one_product_name() -> None:
    here = market(1000)
    there = [msgspec.structs.replace(tick, venue="binance", price=tick.price * 2) for tick in here]
    both = [tick for pair in zip(here, there, strict=True) for tick in pair]
    bench = Bench([messages_of(both)]).run()
    assert set(bench.delivery.sent[TOPICS.features]) == {
        f"{venue}:{product}".encode() for venue in ("coinbase", "binance") for product in ("BTC-USD", "ETH-USD")
    }
    alone = Bench([messages_of(here)]).run()
    for product in ("BTC-USD", "ETH-USD"):
        key = f"coinbase:{product}".encode()
        rows = [
            [
                np.array(FeatureRow.FromString(value).values).tobytes()
                for value in one.delivery.sent[TOPICS.features][key]
            ]
            for one in (bench, alone)
        ]
        assert rows[0] == rows[1]
