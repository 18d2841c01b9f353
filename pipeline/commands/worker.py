"""`volcast worker`: ticks to features to predictions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from clients.sync import Client
from common.access import make_access, read_token
from common.cli import Duration, config_option, examples, json_option
from common.config import Config, load_config
from common.errors import ClientLostError, ConfigError, UnavailableError
from common.lifecycle import stop_on_signals
from common.log import configure_logs, get_logger
from common.schema import SCHEMAS
from common.status import StatusPipe
from pipeline.broker.light import is_light
from pipeline.features.columns import VenueProductCodes
from pipeline.parquet import FeatureParquetWriter
from pipeline.stream.drift import LiveDrift, manifest_in
from pipeline.stream.forecast import Forecaster
from pipeline.stream.instance_name import InstanceName
from pipeline.stream.kafka import connect, make_consumer
from pipeline.stream.kafka_topics import ensure_topics, warn_unless_compacted
from pipeline.stream.metrics import labelled, serve_metrics
from pipeline.stream.restore import Restorer
from pipeline.stream.transactions import AbortedError, AtLeastOnce, Delivery, ExactlyOnce
from pipeline.stream.worker import Worker

T = TypeVar("T")
Rebalanced = Callable[[Consumer, list[TopicPartition]], None]

MAX_LOST, YOUNG_S = 3, 15.0  # Kafka clients that are lost soon after their start
STEP_S = 0.1  # how long a step waits for a message: how soon a signal is seen
LATENCY_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@click.command(
    epilog=examples(
        "volcast worker",
        "volcast worker --server inference.internal:50051 --features-dir data/features",
        "volcast worker --schema full/1 --model volatility-full",
    )
)
@click.option("--server", default=None, help="The inference server (worker.server).")
@click.option("--schema", type=click.Choice(list(SCHEMAS)), default=None, help="Of the features (worker.schema).")
@click.option("--model", default=None, metavar="NAME", help="The model asked for (worker.model).")
@click.option("--features-dir", type=click.Path(path_type=Path, file_okay=False), help="Parquet (worker.parquet_dir).")
@click.option("--duration", type=Duration(), default=None, help="Stop after this long.")
@json_option
@config_option
def worker(
    server: str | None,
    schema: str | None,
    model: str | None,
    features_dir: Path | None,
    duration: float | None,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Ticks from ticks.raw to features (ticks.features and Parquet) to predictions, over StreamPredict.

    Several workers share the partitions of ticks.raw. If the inference server does not answer, features continue and
    rows wait, up to worker.max_backlog_rows.
    """
    config = _with(load_config(config_file), schema, model)
    if config.worker.max_batch_ticks > config.server.max_rows:
        # Every full batch would be refused.
        expected = f"at most server.max_rows, {config.server.max_rows}"
        raise ConfigError("worker.max_batch_ticks", config.worker.max_batch_ticks, expected)
    configure_logs(config.log, "worker")
    features = SCHEMAS[config.worker.schema]
    stop = stop_on_signals()
    status = StatusPipe(stop)
    admin = connect(config.kafka)
    config = _as_delivered(config, admin)
    ensure_topics(admin, config.kafka)
    warn_unless_compacted(admin, config.kafka)
    parquet_dir = features_dir or (Path(config.worker.parquet_dir) if config.worker.parquet_dir else None)
    with ExitStack() as cleanup:
        writer = None if parquet_dir is None else FeatureParquetWriter(parquet_dir, schema=features)
        if writer is not None:
            cleanup.callback(writer.close)
        drift = LiveDrift(partial(manifest_in, Path(config.server.models_dir)), features)
        deadline = time.monotonic() + duration if duration else float("inf")
        assigned, stats = with_new_clients(
            lambda: _work(config, server, writer, drift, status, lambda: stop.is_set() or time.monotonic() >= deadline)
        )
    if not assigned and not stop.is_set():
        raise UnavailableError(
            f"worker: the group {config.worker.group_id} gave it no partitions within {duration:g} s; are there more "
            "workers than partitions?"
        )
    status.report("summary", **stats)
    get_logger().info("worker ended", **stats)
    if as_json:
        click.echo(msgspec.json.encode(stats))


def with_new_clients(work: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> T:
    """Calls `work` again if its Kafka clients become unusable: it then starts from what is committed.

    A broker that was away for longer than the session timeout may fence a static member that has no rival. Two workers
    with the same name fence each other within seconds, without end. So after MAX_LOST times in a row within YOUNG_S,
    raises UnavailableError.
    """
    lost = 0
    while True:
        began_s = clock()
        try:
            return work()
        except ClientLostError as error:
            lost = lost + 1 if clock() - began_s < YOUNG_S else 0
            if lost >= MAX_LOST:
                raise UnavailableError(f"{error}; does another worker have the same worker.instance_id?") from None
            get_logger().warning("kafka client lost, starting again from the last commit", error=str(error))


def _work(
    config: Config,
    server: str | None,
    writer: FeatureParquetWriter | None,
    drift: LiveDrift,
    status: StatusPipe,
    ended: Callable[[], bool],
) -> tuple[bool, dict[str, Any]]:
    """A worker with clients of its own, until it is time to end: whether it ever had partitions, and its counts."""
    settings = config.worker
    with ExitStack() as cleanup:
        member, consumer = make_worker(cleanup, config, server or settings.server, writer, drift)
        port = cleanup.enter_context(
            serve_metrics(
                settings.metrics_host,
                settings.metrics_port,
                lambda: chain(metrics(member, consumer), drift.collect()),
                "worker.metrics_port",
            )
        )
        # The group's first assignment takes the broker a while; the kernels compile meanwhile.
        subscribe(cleanup, consumer, member, config.kafka.topics.raw)
        get_logger().info("joining the group", group_id=settings.group_id)
        member.compile()
        assigned = _run(member, consumer, status, ended, port)
        with suppress(AbortedError):  # the next worker reads again from the last commit
            member.commit()
        return assigned, member.stats()


def _with(config: Config, schema: str | None, model: str | None) -> Config:
    """Options of the command line win."""
    given = {name: value for name, value in (("schema", schema), ("model", model)) if value is not None}
    return msgspec.structs.replace(config, worker=msgspec.structs.replace(config.worker, **given))


def _as_delivered(config: Config, admin: AdminClient) -> Config:
    """The configuration with the guarantee that the broker can keep."""
    if config.worker.guarantee == "at_least_once" or not is_light(admin, config.kafka.timeout_s):
        return config
    get_logger().warning("the light broker has no transactions; the worker delivers at least once")
    return msgspec.structs.replace(config, worker=msgspec.structs.replace(config.worker, guarantee="at_least_once"))


def make_worker(
    cleanup: ExitStack,
    config: Config,
    server: str,
    writer: FeatureParquetWriter | None = None,
    drift: LiveDrift | None = None,
) -> tuple[Worker, Consumer]:
    """A worker and its consumer, on a real Kafka. `subscribe` makes it a member of the group."""
    settings, schema = config.worker, SCHEMAS[config.worker.schema]
    instance = settings.instance_id or _free_name(cleanup, settings.group_id)
    consumer = make_consumer(
        config.kafka,
        settings.group_id,
        **{
            "group.instance.id": instance,
            "partition.assignment.strategy": "cooperative-sticky",
            "auto.offset.reset": "error",  # deleted records are a gap, not a silent jump
        },
    )
    cleanup.callback(consumer.close)
    delivery: Delivery = (
        ExactlyOnce(config.kafka, consumer, f"{settings.group_id}-{instance}")
        if settings.guarantee == "exactly_once"
        else AtLeastOnce(config.kafka, consumer)
    )
    # Runs before the consumer's close, which gives up the partitions: nothing may be produced for them then.
    cleanup.callback(delivery.close)
    codes = VenueProductCodes()
    max_future_ns = round(config.ingest.max_future_s * 1e9)
    member = Worker(
        consumer,
        delivery,
        _forecaster(cleanup, config, server),
        Restorer(config.kafka, settings.group_id, schema, max_future_ns, consumer, delivery, codes),
        codes,
        config.kafka.topics,
        writer,
        group_id=settings.group_id,
        max_batch_ticks=settings.max_batch_ticks,
        commit_interval_s=settings.commit_interval_ms / 1e3,
        drift=drift,
        schema=schema,
    )
    return member, consumer


def subscribe(cleanup: ExitStack, consumer: Consumer, member: Worker, topic: str) -> None:
    """Joins the group. Partitions that the group gives or takes while the consumer closes are left alone."""
    closing = threading.Event()

    def unless_closing(react: Rebalanced) -> Rebalanced:
        return lambda consumer, partitions: None if closing.is_set() else react(consumer, partitions)

    consumer.subscribe(
        [topic],
        on_assign=unless_closing(member.on_assign),
        on_revoke=unless_closing(member.on_revoke),
        on_lost=unless_closing(member.on_lost),
    )

    def prepare_close() -> None:
        closing.set()
        # librdkafka 2.x: close waits without end for a rebalance that no poll has served (librdkafka #4041, #4884).
        consumer.poll(0)

    cleanup.callback(prepare_close)


def _free_name(cleanup: ExitStack, group_id: str) -> str:
    instance = InstanceName(group_id)
    cleanup.callback(instance.close)
    return instance.name


def _forecaster(cleanup: ExitStack, config: Config, server: str) -> Forecaster:
    worker = config.worker
    access = make_access(
        read_token(worker.server_token_file), ca=worker.server_ca, cert=worker.server_cert, key=worker.server_key
    )
    client = cleanup.enter_context(Client(server, timeout_s=worker.predict_timeout_s, access=access))
    stream = cleanup.enter_context(client.stream())
    return Forecaster(
        stream,
        SCHEMAS[worker.schema].hash,
        limit_rows=worker.max_backlog_rows,
        timeout_s=worker.predict_timeout_s,
        model=worker.model,
        spike_bps=worker.spike_bps,
        quantiles=worker.quantiles,
    )


def _run(member: Worker, consumer: Consumer, status: StatusPipe, ended: Callable[[], bool], port: int) -> bool:
    """Steps until it is time to end. True if the group ever gave partitions to this worker."""
    ready = False
    next_report_s = time.monotonic() + 1
    while not ended():
        member.step(STEP_S)
        if not ready and consumer.assignment():
            ready = True
            status.report("ready", metrics_port=port)
            get_logger().info("ready", metrics_port=port)
        if time.monotonic() >= next_report_s:
            next_report_s += 1
            status.report("stats", **member.stats())
    return ready


def metrics(member: Worker, consumer: Consumer) -> Iterable[Metric]:
    """The metrics, from the worker's own counts."""
    totals = member.committed
    counts = totals.records
    yield labelled("volcast_worker_ticks_total", "Ticks turned into features.", "product", counts.ticks)
    yield labelled("volcast_worker_gaps_total", "Gaps read from the topic.", "reason", counts.gaps)
    yield labelled("volcast_worker_late_total", "Late or repeated ticks.", "reason", counts.late)
    yield labelled("volcast_worker_dead_total", "Records that are no ticks.", "reason", counts.dead)
    yield labelled(
        "volcast_worker_missing_predictions_total", "Warm rows without a prediction.", "reason", totals.missing
    )
    yield CounterMetricFamily("volcast_worker_features_total", "Feature rows published.", value=totals.features)
    yield CounterMetricFamily("volcast_worker_not_warm_total", "Feature rows not warm.", value=totals.not_warm)
    yield CounterMetricFamily("volcast_worker_predictions_total", "Predictions published.", value=totals.predictions)
    yield CounterMetricFamily(
        "volcast_worker_lost_records_total", "Records that Kafka deleted before they were read.", totals.lost_records
    )
    yield GaugeMetricFamily(
        "volcast_worker_backlog_rows",
        "Rows that wait for the inference server.",
        value=float(member.forecaster.backlog_rows),
    )
    total = member.stages.total
    below = total.below([limit * 1e9 for limit in LATENCY_BUCKETS_S])
    buckets = [(str(limit), float(count)) for limit, count in zip(LATENCY_BUCKETS_S, below, strict=True)]
    yield HistogramMetricFamily(
        "volcast_worker_latency_seconds",
        "From the receipt of a tick to its prediction.",
        buckets=[*buckets, ("+Inf", float(total.count))],
        sum_value=total.sum_ns / 1e9,
    )
    yield _lag(consumer)


def _lag(consumer: Consumer) -> Metric:
    lag = GaugeMetricFamily("volcast_worker_consumer_lag", "Records not yet read.", labels=["topic", "partition"])
    for position in consumer.position(consumer.assignment()):
        try:
            _, high = consumer.get_watermark_offsets(position, cached=True)
        except KafkaException:
            continue  # not known yet
        if position.offset >= 0 and high >= 0:
            lag.add_metric([position.topic, str(position.partition)], max(0, high - position.offset))
    return lag
