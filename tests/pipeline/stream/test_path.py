"""The worker on a real broker with a real inference server: what comes out is what the offline path computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks.processes import free_port
from cli.run.processes import ProcessGroup
from common.bundle import Manifest, ManifestFeature, ManifestSchema, SelfTest
from common.config import Config, KafkaConfig, WorkerConfig
from common.schema import CORE_1, FULL_1, FeatureSchema
from pipeline.archive import read_archive
from pipeline.commands.worker import make_worker, subscribe
from pipeline.datasets import coinbase_ticker_2026
from pipeline.features.table import FeatureTable, compute_features
from pipeline.records import DeadLetter, Gap, LateTick, Tick
from pipeline.stream.kafka import Sink, holds_records
from pipeline.stream.publish import Publisher
from pipeline.stream.worker import Worker
from tests.pipeline.stream.ticks import market
from tests.processes import as_environ, await_true, kill, read_all, start
from tests.server.bundles import Logistic, write_bundle
from volcast.v1 import FeatureRow, Prediction

Records = Sequence[Tick | Gap | LateTick | DeadLetter]
Key = tuple[str, int, int]

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="session")
def recording() -> list[Tick | Gap | LateTick | DeadLetter]:
    files = coinbase_ticker_2026()
    if not files:
        pytest.skip("the recording of 2026-04-05 is not here (VOLCAST_DATA_DIR)")
    return list(read_archive(files))


@pytest.fixture(scope="session")
def full_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a real `volcast serve` with a model of core/1 as its default, and one of full/1 beside it."""
    models, port = tmp_path_factory.mktemp("models"), free_port()
    write_bundle(models)
    write_bundle(models, "volatility-full", graph=Logistic(1).graph(width=len(FULL_1)), change=_of_full_1)
    arguments = ["serve", "--port", str(port), "--metrics-port", "0", "--models-dir", str(models)]
    with ProcessGroup(tmp_path_factory.mktemp("server"), None) as parts:
        start(parts, "server", arguments)
        yield f"127.0.0.1:{port}"


def _of_full_1(manifest: Manifest) -> Manifest:
    features = tuple(ManifestFeature(one.name, one.unit) for one in FULL_1.features)
    example = (*manifest.self_test.features, *[0.0] * (len(FULL_1) - len(CORE_1)))
    return msgspec.structs.replace(
        manifest,
        schema=ManifestSchema(FULL_1.name, FULL_1.hash, features),
        self_test=SelfTest(example, manifest.self_test.probability),
    )


def publish(kafka: KafkaConfig, records: Records) -> int:
    sink = Sink(kafka)
    publisher = Publisher(sink, kafka.topics)
    publisher.publish(records)
    sink.flush()
    sink.close()
    return publisher.published


@contextmanager
def working(
    kafka: KafkaConfig,
    server: str,
    group: str,
    max_batch_ticks: int = 1000,
    schema: FeatureSchema = CORE_1,
    model: str = "",
    **settings: Any,
) -> Iterator[Worker]:
    """A worker as the command makes it, in this process."""
    config = WorkerConfig(
        group_id=f"{group}-{kafka.topics.raw}",
        max_batch_ticks=max_batch_ticks,
        schema=schema.name,  # type: ignore[arg-type]
        model=model,
        predict_timeout_s=5,
        **settings,
    )
    with ExitStack() as cleanup:
        worker, consumer = make_worker(cleanup, Config(kafka=kafka, worker=config), server)
        worker.compile()
        subscribe(cleanup, consumer, worker, kafka.topics.raw)
        yield worker


def finish(worker: Worker, consumed: int) -> None:
    """Steps until so many records are consumed and all their predictions are there, then commits."""
    step_until(worker, lambda: worker.totals.consumed >= consumed and not worker.forecaster.backlog_rows)
    worker.commit()
    assert worker.totals.consumed == consumed


def step_until(worker: Worker, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        worker.step(0.05)
        assert time.monotonic() < deadline, worker.stats()


def rows_on_topic(kafka: KafkaConfig, least: int) -> list[FeatureRow]:
    return [FeatureRow.FromString(one.value() or b"") for one in read_all(kafka, kafka.topics.features, least)]


def bits(row: FeatureRow) -> tuple[bytes, bool]:
    return np.array(row.values).tobytes(), row.warm


def key(row: FeatureRow | Prediction) -> Key:
    return row.product_id, row.event_time_ns, row.sequence_num


def expected(table: FeatureTable) -> dict[Key, tuple[bytes, bool]]:
    rows = table.rows
    return {
        (product, int(rows.event_time_ns[i]), int(rows.sequence_num[i])): (rows.values[i].tobytes(), bool(rows.warm[i]))
        for i, product in enumerate(rows.product_ids)
    }


def assert_same(kafka: KafkaConfig, records: Records, *, schema: FeatureSchema = CORE_1) -> None:
    """Features on the topic are the offline path's, bit for bit, and each warm row has its prediction."""
    offline = expected(compute_features(records, schema))
    warm = {one for one, (_, is_warm) in offline.items() if is_warm}
    assert warm
    rows = rows_on_topic(kafka, len(offline))
    for row in rows:
        assert bits(row) == offline[key(row)], key(row)
    assert {key(row) for row in rows} == set(offline)
    messages = read_all(kafka, kafka.topics.predictions, len(warm))
    predictions = [Prediction.FromString(one.value() or b"") for one in messages]
    assert {key(one) for one in predictions} == warm
    assert not any(one.missing_reason for one in predictions)
    probability: dict[Key, float] = {}
    for one in predictions:
        assert probability.setdefault(key(one), one.probability) == one.probability
    assert len(rows) == len(offline)
    assert len(predictions) == len(warm)


def simulated() -> list[Tick]:
    return market(4000, rate_per_s=12)


def test_features_of_the_real_recording_through_kafka_equal_the_offline_ones_bit_for_bit(
    kafka: KafkaConfig, inference_server: str, recording: Records
) -> None:
    assert publish(kafka, recording) == 5970
    with working(kafka, inference_server, "real") as worker:
        finish(worker, 5970)
        assert worker.totals.features == 5970
        assert worker.totals.records.gaps.total() == 0
        assert worker.totals.predictions == worker.totals.features - worker.totals.not_warm > 5000
    assert_same(kafka, recording)


def test_features_of_a_simulated_market_through_kafka_equal_the_offline_ones_bit_for_bit(
    kafka: KafkaConfig, inference_server: str
) -> None:
    ticks = simulated()
    publish(kafka, ticks)
    with working(kafka, inference_server, "simulated", max_batch_ticks=37) as worker:
        finish(worker, len(ticks))
    assert_same(kafka, ticks)


@pytest.mark.parametrize("source", ["recording", "simulated"])
def test_another_worker_of_the_group_goes_on_with_the_same_bits(
    source: str, kafka: KafkaConfig, inference_server: str, request: pytest.FixtureRequest
) -> None:
    records: Records = request.getfixturevalue("recording") if source == "recording" else simulated()
    publish(kafka, records)
    with working(kafka, inference_server, "handover", max_batch_ticks=50) as first:
        step_until(first, lambda: first.totals.consumed >= len(records) // 2)
        first.commit()
    with working(kafka, inference_server, "handover") as second:
        finish(second, len(records) - first.totals.consumed)
        assert second.totals.consumed > 0
    assert_same(kafka, records)


def test_full_1_through_kafka_and_a_restart_equals_the_offline_path_and_is_asked_of_its_model(
    kafka: KafkaConfig, full_server: str
) -> None:
    ticks = market(6000, rate_per_s=4)
    publish(kafka, ticks)
    start_worker = partial(working, kafka, full_server, "full", schema=FULL_1, model="volatility-full")
    with start_worker(max_batch_ticks=50) as first:
        step_until(first, lambda: first.totals.consumed >= 5000)
        first.commit()
    with start_worker() as second:
        finish(second, len(ticks) - first.totals.consumed)
        assert second.totals.not_warm == 0
    assert first.totals.predictions + second.totals.predictions > 1000
    assert_same(kafka, ticks, schema=FULL_1)


def test_a_worker_that_dies_in_a_transaction_is_followed_by_the_same_bits(
    kafka: KafkaConfig, inference_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = simulated()
    publish(kafka, ticks)
    with working(kafka, inference_server, "crash", max_batch_ticks=50, commit_interval_ms=5000) as first:
        step_until(first, lambda: first.totals.consumed == 1000)
        step_until(first, lambda: not first.forecaster.backlog_rows)
        first.commit()
        step_until(first, lambda: first.totals.consumed >= 2000)
        monkeypatch.setattr(first, "commit", lambda: None)  # what it did since is not committed
    with working(kafka, inference_server, "crash") as second:
        finish(second, len(ticks) - 1000)
    assert_same(kafka, ticks)


def test_a_spare_worker_of_the_group_waits_and_does_no_harm(kafka: KafkaConfig, inference_server: str) -> None:
    ticks = simulated()
    publish(kafka, ticks)
    with (
        working(kafka, inference_server, "spare") as first,
        working(kafka, inference_server, "spare") as second,
    ):

        def both() -> bool:
            second.step(0)
            return first.totals.consumed + second.totals.consumed >= len(ticks) and not first.forecaster.backlog_rows

        step_until(first, both)
        first.commit()
        second.commit()
    assert_same(kafka, ticks)


def test_kill_9_loses_nothing(kafka: KafkaConfig, inference_server: str, parts: ProcessGroup) -> None:
    """A real process is killed between commits, with ticks still coming, and another worker goes on."""
    ticks = simulated()
    environ = {
        **as_environ(kafka),
        "VOLCAST_WORKER__SERVER": inference_server,
        "VOLCAST_WORKER__METRICS_PORT": "0",
        "VOLCAST_WORKER__GROUP_ID": f"killed-{kafka.topics.raw}",
        "VOLCAST_WORKER__PARQUET_DIR": "",
        "VOLCAST_WORKER__MAX_BATCH_TICKS": "20",
    }
    publish(kafka, ticks[:1000])
    first = start(parts, "first", ["worker"], environ)

    def first_has(count: int) -> bool:
        parts.listen(0)
        return int(first.stats.get("consumed", 0)) >= count

    await_true(lambda: first_has(1000), what="the first thousand")
    publish(kafka, ticks[1000:2500])
    await_true(lambda: len(read_all(kafka, kafka.topics.features, idle_s=0.05)) > 1500, what="the next rows")
    kill(first)
    publish(kafka, ticks[2500:])
    with working(kafka, inference_server, "killed") as second:
        last = ticks[-1].sequence_num
        step_until(second, lambda: last in {row.sequence_num for row in rows_on_topic(kafka, 0)})
        step_until(second, lambda: not second.forecaster.backlog_rows)
        second.commit()
    assert_same(kafka, ticks)


def test_a_topic_knows_whether_anything_was_ever_put_on_it(kafka: KafkaConfig) -> None:
    assert not holds_records(kafka, kafka.topics.raw)
    publish(kafka, market(1))
    assert holds_records(kafka, kafka.topics.raw)


def test_a_message_that_kafka_does_not_take_is_told_in_one_line(kafka: KafkaConfig) -> None:
    sink = Sink(kafka)
    with pytest.raises(Exception, match=r"^kafka: a message for dead-[0-9-]+ is refused: .*too large"):
        sink.send(kafka.topics.dead, b"key", b"x" * 2_000_000)
    sink.close()


def test_dead_letters_of_messages_of_any_size_are_taken(kafka: KafkaConfig) -> None:
    sink = Sink(kafka)
    letter = DeadLetter.of("not_json", "why", "source", b"\x01" * 5_000_000)
    Publisher(sink, kafka.topics).publish([letter])
    sink.flush()
    sink.close()
    (message,) = read_all(kafka, kafka.topics.dead, 1)
    assert msgspec.json.decode(message.value() or b"")["raw"] == "\x01" * 150_000
