"""`volcast watch`: the live stream of predictions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from confluent_kafka import OFFSET_END, Message, TopicPartition
from google.protobuf.message import DecodeError

from common.cli import config_option, examples, json_option
from common.config import load_config
from common.lifecycle import stop_on_signals
from common.log import configure_logs, get_logger
from common.streams import reader_gone
from pipeline.exchange.simulator import describe_market
from pipeline.stream.inspect import missing_reason
from pipeline.stream.kafka import connect, consume_batch, make_consumer, partitions_of
from volcast.v1 import Prediction


@click.command(epilog=examples("volcast watch", "volcast watch --product BTC-USD --json", "volcast watch --count 10"))
@click.option("--product", default=None, help="Only this product, such as BTC-USD.")
@click.option("--count", type=click.IntRange(min=1), default=None, help="Stop after so many.")
@json_option
@config_option
def watch(product: str | None, count: int | None, as_json: bool, config_file: Path | None) -> None:
    """Predictions as they come, a line each, until Ctrl-C.

    SPIKE marks a probability at or above the alert level. If the model forecasts a distribution, a line also has the
    median of the next minute's volatility, the interval between the outermost levels of worker.quantiles, and the share
    of training rows at or above the spike size.

    Standard error shows the date of the market, and whether the market is simulated.
    """
    config = load_config(config_file)
    configure_logs(config.log, "watch")
    stop = stop_on_signals()
    connect(config.kafka)
    consumer = make_consumer(config.kafka, "volcast-watch")
    try:
        topic = config.kafka.topics.predictions
        numbers = partitions_of(consumer, topic, config.kafka.timeout_s)
        consumer.assign([TopicPartition(topic, number, OFFSET_END) for number in numbers])
        shown, market = 0, ""
        while not (stop.is_set() or reader_gone()) and (count is None or shown < count):
            for message in consume_batch(consumer, 100, 0.1):
                prediction = _parsed(message)
                if prediction is None:
                    continue
                if product not in (None, prediction.product_id) or (count is not None and shown >= count):
                    continue
                shown += 1
                if not as_json and (current := describe_market(prediction.event_time_ns)) != market:
                    market = current
                    click.echo(market, err=True)
                click.echo(prediction_json(prediction) if as_json else prediction_line(prediction))
    finally:
        consumer.close()


def _parsed(message: Message) -> Prediction | None:
    try:
        return Prediction.FromString(message.value() or b"")
    except DecodeError:
        get_logger().warning("not a Prediction", offset=message.offset(), partition=message.partition())
        return None


def prediction_line(prediction: Prediction) -> str:
    time = datetime.fromtimestamp(prediction.event_time_ns / 1e9, UTC).strftime("%H:%M:%S.%f")[:-3]
    head = f"{time}  {prediction.product_id:<9}"
    if prediction.missing_reason:
        return f"{head}  missing: {missing_reason(prediction)}"
    mark = "SPIKE" if prediction.probability >= prediction.threshold else ""
    model = f"{prediction.model_name}/{prediction.model_version}"
    forecast = f"  {_forecast(prediction)}" if prediction.spike_bps else ""
    latency = f"{prediction.latency_ns / 1e6:8.2f} ms"
    return f"{head}  {prediction.probability:7.4f}  {mark:<5}{forecast}  {latency}  {model}"


def _forecast(prediction: Prediction) -> str:
    """The forecast volatility: its median, the interval between the outermost levels, the base rate."""
    parts = [f"median {prediction.median_bps:6.2f} bps"]
    levels, quantiles = prediction.quantile_levels, prediction.quantile_bps
    if len(levels) > 1:
        parts.append(f"{levels[0]:g}-{levels[-1]:g}: {quantiles[0]:6.2f} to {quantiles[-1]:6.2f} bps")
    parts.append(f"base rate {prediction.base_rate:.4f} at {prediction.spike_bps:g} bps")
    return "  ".join(parts)


def prediction_json(prediction: Prediction) -> bytes:
    fields: dict[str, object] = {
        "product_id": prediction.product_id,
        "event_time_ns": prediction.event_time_ns,
        "sequence_num": prediction.sequence_num,
        "probability": None if prediction.missing_reason else prediction.probability,
        "threshold": prediction.threshold,
        "model": f"{prediction.model_name}/{prediction.model_version}",
        "latency_ms": round(prediction.latency_ns / 1e6, 3),
        "missing": missing_reason(prediction) if prediction.missing_reason else None,
    }
    if prediction.spike_bps:
        fields |= {
            "spike_bps": prediction.spike_bps,
            "base_rate": prediction.base_rate,
            "median_bps": prediction.median_bps,
            "quantiles": list(prediction.quantile_levels),
            "quantile_bps": list(prediction.quantile_bps),
        }
    return msgspec.json.encode(fields)
