"""Configuration. Later sources win: the defaults in this module, config.yaml, .env, the environment.

It is read once, at the edge, into frozen values; code below the edge takes plain arguments. An environment
variable sets a key by the name `VOLCAST_SECTION__KEY`, such as `VOLCAST_SERVER__PORT=50052`.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import yaml
from dotenv import dotenv_values

from common.errors import ConfigError, InputError
from common.kafka_client import HIDDEN, check_client, shown
from common.service_links import without_service_links

ENV_PREFIX = "VOLCAST_"
DEFAULT_FILE = "config.yaml"
ENV_FILE = ".env"
# Variables with the prefix that are not keys. Any other variable is a misspelled key.
OTHER_VARIABLES = (
    "VOLCAST_DATA_DIR",  # recorded market data, for training and tests
    "VOLCAST_STATUS_FD",  # the pipe that `volcast run` gives to each of its parts
    "VOLCAST_TAG",  # for docker compose (deploy/.env.example), whose callers export it
)
TEST_PREFIX = "VOLCAST_TEST_"
MAX_LEVELS = 16  # of quantiles in a request, as in the contract

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]  # 0: any free port; the ready event reports it
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Days = Annotated[float, msgspec.Meta(ge=0)]
PositiveSeconds = Annotated[float, msgspec.Meta(gt=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
# Each exchange has its own form (BTC-USD, BIT-28JUN24-CDE, BTCUSDT); its feed checks that form.
Product = Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9]+([-_/.][A-Z0-9]+)*\Z", max_length=60)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class LogConfig(Section, frozen=True):
    format: Literal["auto", "json", "console"] = "auto"  # auto: console on a terminal, else JSON
    level: Literal["debug", "info", "warning", "error"] = "info"


class Topics(Section, frozen=True):
    raw: Text = "ticks.raw"
    features: Text = "ticks.features"
    predictions: Text = "predictions"
    late: Text = "ticks.late"
    dead: Text = "ticks.dead"
    snapshots: Text = "volcast.snapshots"  # compacted: the worker's state


class KafkaConfig(Section, frozen=True):
    bootstrap_servers: str = ""  # empty: the Kafka of `volcast broker`, at broker.host and broker.port
    topics: Topics = Topics()
    partitions: Positive = 1  # of topics that Volcast creates
    linger_ms: Seconds = 0.0  # latency first; 5 suits bulk replay
    timeout_s: PositiveSeconds = 10.0  # how long a broker may be unavailable at start
    create_topics: bool = True  # False: a missing topic is an error
    replication_factor: Annotated[int, msgspec.Meta(ge=0)] = (
        0  # of topics that Volcast creates; 0: the broker's default
    )
    retention_ms: Annotated[int, msgspec.Meta(ge=-1)] = 0  # of such topics; 0: the broker's default; -1: unlimited
    # Properties of librdkafka for every client; common/kafka_client.py lists those that Volcast sets itself.
    client: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict)
    client_secrets: dict[str, str] = msgspec.field(default_factory=dict)  # secret property -> file with its value
    # After so long without a heartbeat, the partitions of a dead worker go to another worker of its group. Kafka
    # refuses less than 6 s (group.min.session.timeout.ms).
    session_timeout_ms: Annotated[int, msgspec.Meta(ge=6000)] = 8000


class BrokerConfig(Section, frozen=True):
    """Apache Kafka of this machine, as `volcast broker` starts it."""

    host: Text = "127.0.0.1"
    port: Port = 9092
    data_dir: Text = "data/kafka"
    # Of each partition. Kafka deletes whole segments, of a quarter of this size.
    retention_bytes: Annotated[int, msgspec.Meta(ge=4 * 1024 * 1024)] = 1024 * 1024 * 1024
    retention_s: PositiveSeconds = 7 * 24 * 3600.0
    maven_repository: str = ""  # where the jars come from; empty: Maven Central


class ExchangeConfig(Section, frozen=True):
    host: Text = "127.0.0.1"
    port: Port = 8765
    seed: int = 1
    rate_per_s: PositiveSeconds = 5.0  # simulated ticks per second and product at speed 1, similar to Coinbase


class IngestConfig(Section, frozen=True):
    venue: Text = "coinbase"  # the exchange: a name of pipeline/feed/venues.py
    url: str = ""  # empty: the public address of the exchange
    products: Annotated[tuple[Product, ...], msgspec.Meta(min_length=1)] = ("BTC-USD", "ETH-USD")
    archive_dir: str = "data/raw"  # empty: no archive
    archive_roll_bytes: Positive = 64 * 1024 * 1024  # a larger file is closed and compressed
    archive_roll_s: PositiveSeconds = 3600.0  # files end at multiples of this time: 3600 is each full hour
    archive_compress: bool = True  # closed files become .ndjson.gz
    # never: the operating system decides. roll: closed files. flush: also the current file, each second.
    archive_fsync: Literal["never", "roll", "flush"] = "roll"
    archive_retention_days: Days = 0.0  # older files are removed; 0: none
    archive_max_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0  # the oldest files beyond this sum are removed; 0: none
    backlog_dir: str = "data/backlog"  # records wait here while Kafka is unavailable; empty: ingest ends instead
    backlog_max_bytes: Positive = 2 * 1024 * 1024 * 1024  # later records are counted and lost
    max_future_s: Seconds = 60.0  # a tick further ahead of our clock is a dead letter; 0: no check
    silence_s: PositiveSeconds = 15.0  # after so long without a message, even a heartbeat, reconnect
    connect_timeout_s: PositiveSeconds = 10.0
    # A product's silence of more than this is a gap, and sequence numbers are ignored; 0: the exchange's own rule. It
    # also applies to recordings.
    gap_after_s: Seconds = 0.0
    max_message_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 10 * 1024 * 1024  # a larger message ends the connection
    metrics_host: Text = "127.0.0.1"  # 0.0.0.0 if Prometheus runs on another machine or in a container
    metrics_port: Port = 9103


class WorkerConfig(Section, frozen=True):
    server: str = ""  # address of the inference server; empty: server.host and server.port
    server_token_file: str = ""  # this key and the next three: as in section gateway
    server_ca: str = ""
    server_cert: str = ""
    server_key: str = ""
    schema: Literal["core/1", "full/1", "full/2"] = "core/1"  # of the features; the model must have the same
    model: str = ""  # name of the model; empty: the default of the server
    # Spike size of the predictions: realized volatility of 60 s, in basis points. 0: the model's default. This key and
    # `quantiles` need a model that forecasts a distribution.
    spike_bps: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    quantiles: tuple[float, ...] = ()  # levels of the quantiles in each prediction: ascending, in (0, 1)
    group_id: Text = "volcast-worker"
    parquet_dir: str = "data/processed/live"  # empty: no Parquet
    # A stable name of this worker: a restart keeps its partitions and ends its open transaction at once. Empty: the
    # name of the host and a number.
    instance_id: str = ""
    guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once"
    # Readers of committed records see a record after about so long. 0: each commit starts when the last one is done.
    commit_interval_ms: Annotated[int, msgspec.Meta(ge=0, le=5000)] = 100
    max_batch_ticks: Positive = 1000
    predict_timeout_s: PositiveSeconds = 0.5  # how long the worker waits for an answer
    max_backlog_rows: Positive = (
        100_000  # warm rows that wait for an unavailable server; beyond it the oldest that wait are marked missing
    )
    metrics_host: Text = "127.0.0.1"
    metrics_port: Port = 9102


class ServerConfig(Section, frozen=True):
    host: Text = "127.0.0.1"
    port: Port = 50051
    models_dir: Text = "models"
    watch_s: Seconds = 2.0  # how often the models folder is checked for changes; 0: only on SIGHUP or by RPC
    default_model: Text = "volatility"
    max_rows: Positive = 65_536  # of a request
    max_message_bytes: Positive = 16 * 1024 * 1024
    front: Literal["auto", "native", "grpcio"] = "auto"  # auto: native
    workers: Positive = 1  # processes that share the port; with more than one there is a supervisor
    max_batch: Positive = 2048  # rows of one run of a model; a larger request is a run by itself
    max_queue: Positive = 4096  # calls that wait for the model; further calls are refused at once
    max_queue_delay_us: Annotated[int, msgspec.Meta(ge=0, le=4_000_000)] = 0  # how long a batch waits for more calls
    # While calls arrive at intervals of about this time, the native front polls for the next call for so long before it
    # sleeps. A single caller gets 1.6 times as many answers as with 0, which sleeps at once. Polling takes up to a
    # core at such rates, and nothing when idle.
    spin_us: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 250
    # The limits below bound the share of a single caller; server/security/limits.py applies them.
    max_concurrent_streams: Positive = 1024  # of one connection: many more than a core can serve
    max_metadata_bytes: Positive = 16 * 1024  # of a call's headers: tokens and traces take 2 KiB
    min_ping_interval_s: PositiveSeconds = 10.0  # a caller that repeatedly pings more often is disconnected
    keepalive_s: PositiveSeconds = 60.0  # after so long without data the server sends a ping
    keepalive_timeout_s: PositiveSeconds = 20.0  # without an answer to the ping, the connection is closed
    handshake_timeout_s: PositiveSeconds = 10.0  # from accept to the end of TLS and HTTP/2 settings
    max_connections: Positive = 16_384  # of the process; each takes memory and a file descriptor
    tls_cert: str = ""  # PEM chain, the certificate of the server first; empty: plaintext
    tls_key: str = ""  # PEM key of the certificate
    tls_client_ca: str = ""  # PEM; if set, callers need a certificate that one of these authorities signed (mTLS)
    tokens_file: str = ""  # lines of `sha256hex name`, as `volcast token` prints them; empty: callers need no token
    health_needs_token: bool = False  # for grpc.health.v1; probes of orchestrators have none
    allow_plaintext: bool = False  # beyond loopback
    reflection: bool = True
    # After SIGTERM: how long health reports NOT_SERVING while new calls and connections are still answered, so
    # that balancers turn away before the port closes. Longer than the interval of their health checks.
    lame_duck_s: Seconds = 1.0
    drain_s: Seconds = 5.0  # after that: how long calls in progress may take
    metrics_host: Text = "127.0.0.1"
    metrics_port: Port = 9101


class GatewayConfig(Section, frozen=True):
    host: Text = "127.0.0.1"
    port: Port = 8000
    server: str = ""  # as worker.server
    timeout_s: PositiveSeconds = 2.0
    lame_duck_s: Seconds = 1.0  # as server.lame_duck_s, for /health and /v2/health/ready
    tls_cert: str = ""  # for HTTPS; empty: plain HTTP
    tls_key: str = ""
    tokens_file: str = ""  # as server.tokens_file; empty: the same file
    allow_plaintext: bool = False  # beyond loopback
    server_token_file: str = ""  # file with the token for the server
    server_ca: str = ""  # PEM of the authority of the server's certificate; empty: plaintext to the server
    server_cert: str = ""  # PEM certificate for a server that requires one (mTLS)
    server_key: str = ""


class TrackingConfig(Section, frozen=True):
    """Training runs, and the place where MLflow keeps them. The variable MLFLOW_TRACKING_URI wins over `uri`."""

    uri: Text = "sqlite:///data/mlflow.db"  # a file, or http(s)://HOST:PORT of an MLflow server
    artifacts_dir: Text = "data/mlartifacts"  # used with a file; a server has its own
    runs_dir: Text = "data/runs"  # each run is a complete folder here first
    experiment: Text = "volcast"
    timeout_s: PositiveSeconds = 10.0  # of one request to a server


class GateConfig(Section, frozen=True):
    """Limits that a model must meet to be promoted; docs/promotion.md has the rules."""

    max_latency_us: Annotated[float, msgspec.Meta(gt=0)] = 10.0  # one row in ONNX Runtime, mean of the best round
    champion_margin: Annotated[float, msgspec.Meta(ge=0, le=1)] = (
        0.02  # largest loss, as a share of the champion's CRPS
    )
    seed: int = 0  # of the bootstrap


class MonitorConfig(Section, frozen=True):
    """Live figures of predictions against outcomes."""

    windows: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)] = ("15m", "1h", "24h")  # of event time
    refresh_s: PositiveSeconds = 10.0  # how often the figures are computed
    metrics_host: Text = "127.0.0.1"
    metrics_port: Port = 9104


class Config(Section, frozen=True):
    """All sections. Building it fills in empty addresses, so no reader sees an empty address."""

    log: LogConfig = LogConfig()
    kafka: KafkaConfig = KafkaConfig()
    broker: BrokerConfig = BrokerConfig()
    exchange: ExchangeConfig = ExchangeConfig()
    ingest: IngestConfig = IngestConfig()
    worker: WorkerConfig = WorkerConfig()
    server: ServerConfig = ServerConfig()
    gateway: GatewayConfig = GatewayConfig()
    tracking: TrackingConfig = TrackingConfig()
    gate: GateConfig = GateConfig()
    monitor: MonitorConfig = MonitorConfig()

    def __post_init__(self) -> None:
        broker = reachable(self.broker.host, self.broker.port)
        server = reachable(self.server.host, self.server.port)
        self._fill("kafka", "bootstrap_servers", broker)
        self._fill("worker", "server", server)
        self._fill("gateway", "server", server)
        # If server.tokens_file is set and gateway.tokens_file is not, the gateway uses the same file.
        self._fill("gateway", "tokens_file", self.server.tokens_file)

    def _fill(self, name: str, key: str, address: str) -> None:
        section = getattr(self, name)
        if not getattr(section, key):
            msgspec.structs.force_setattr(self, name, msgspec.structs.replace(section, **{key: address}))


def reachable(host: str, port: int) -> str:
    """The address at which this machine reaches a service on host:port: loopback for a wildcard host."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def load_config(file: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Reads and validates the configuration.

    file: a YAML file that must exist; None: config.yaml of the working directory, if it exists.
    environ: the environment to read; None: this process's, over the .env file of the working directory.

    Raises ConfigError for an invalid value, InputError for a file that cannot be read.
    """
    tree = _read_tree(file, environ)
    try:
        # strict=False converts text: an environment variable "50052" is a port.
        config = msgspec.convert(tree, Config, strict=False)
    except msgspec.ValidationError as error:
        raise _explain(str(error), tree) from None
    _require_finite(config)
    _require_levels(config.worker.quantiles)
    return config


def names_a_kafka(file: Path | None = None, environ: Mapping[str, str] | None = None) -> bool:
    """Whether kafka.bootstrap_servers is set, so that `volcast run` starts no Kafka. Arguments as in `load_config`."""
    kafka = _read_tree(file, environ).get("kafka")
    return isinstance(kafka, dict) and bool(kafka.get("bootstrap_servers"))


def _read_tree(file: Path | None, environ: Mapping[str, str] | None) -> dict[str, Any]:
    """The YAML file with the environment laid over it."""
    tree = _read_yaml(file)
    settings = frozenset(_variables(Config))
    if environ is None:
        dotenv = without_service_links(_read_dotenv(), settings)
        _require_known_names(dotenv, ENV_FILE)
        environ = {**dotenv, **without_service_links(os.environ, settings)}
    else:
        environ = without_service_links(environ, settings)
    _require_known_names(environ, "environment")
    for key, value in sorted(environ.items()):
        if key.startswith(ENV_PREFIX) and key.upper() in settings:
            _set(tree, key, value)
    _check_kafka_client(tree)
    return tree


def _check_kafka_client(tree: dict[str, Any]) -> None:
    kafka = tree.get("kafka")
    if isinstance(kafka, dict):
        # If all keys of a section are commented out, the section is YAML's null.
        for name in _MAPPINGS:
            if name in kafka and kafka[name] is None:
                kafka[name] = {}
        check_client(*(kafka.get(name, {}) for name in _MAPPINGS))


def _read_dotenv() -> dict[str, str]:
    try:
        return {key: value or "" for key, value in dotenv_values(ENV_FILE).items()}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{ENV_FILE}: cannot be read: {error}") from None


def _require_known_names(names: Iterable[str], where: str) -> None:
    """Raises ConfigError for a misspelled variable, with the nearest name of a key."""
    settings = frozenset(_variables(Config))
    for name in sorted(names):
        if not name.startswith(ENV_PREFIX) or name.startswith(TEST_PREFIX) or name in OTHER_VARIABLES:
            continue
        if name.upper() in settings:
            continue
        # Compared without the prefix, which all names share.
        known = {known.removeprefix(ENV_PREFIX): known for known in (*_variables(Config), *OTHER_VARIABLES)}
        close = difflib.get_close_matches(name.removeprefix(ENV_PREFIX), known, n=1, cutoff=0.4)
        form = f"{ENV_PREFIX}SECTION__KEY"
        raise ConfigError(where, name, f"{form} such as {known[close[0]]}" if close else form)


def _variables(section: type[Section], prefix: str = ENV_PREFIX) -> Iterator[str]:
    """The name of the variable for each key."""
    for field in msgspec.structs.fields(section):
        name = prefix + field.name.upper()
        if isinstance(field.type, type) and issubclass(field.type, Section):
            yield from _variables(field.type, f"{name}__")
        else:
            yield name


def _read_yaml(file: Path | None) -> dict[str, Any]:
    path = file or Path(DEFAULT_FILE)
    try:
        with path.open() as stream:  # a stream, so that PyYAML's messages name the file
            tree = yaml.safe_load(stream)
    except FileNotFoundError:
        if file is None:
            return {}
        raise InputError(f"config file {file}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config file {path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"config file {path}: not YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"config file {path}: expected sections such as `server:`, got {shown('', tree)!r:.60}")
    # If all keys of a section are commented out, the section is YAML's null.
    return {str(key): {} if value is None else value for key, value in tree.items()}


# Keys whose variable is a YAML mapping, as in config.yaml: VOLCAST_KAFKA__CLIENT='{security.protocol: SSL}'.
_MAPPINGS = ("client", "client_secrets")


def _parsed(name: str, key: str, value: str) -> object:
    """The value of a variable."""
    if key == "quantiles" and not value.strip():
        return []
    if key in ("products", "windows", "quantiles"):
        return [item.strip() for item in value.split(",")]
    if key not in _MAPPINGS:
        return value
    try:
        mapping = yaml.safe_load(value) if value else {}
    except yaml.YAMLError:
        mapping = None
    if not isinstance(mapping, dict):
        # The value is not shown, since it may contain a secret.
        raise ConfigError(name, HIDDEN, "a mapping such as {security.protocol: SSL}")
    return mapping


def _set(tree: dict[str, Any], name: str, value: str) -> None:
    *sections, key = name.removeprefix(ENV_PREFIX).lower().split("__")
    node = tree
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(name, shown(name, value), f"a section, but {section} holds {shown(section, child)!r}")
        node = child
    node[key] = _parsed(name, key, value)


def _require_finite(section: Section, path: str = "") -> None:
    """Raises ConfigError for infinity and NaN: infinity passes every lower bound, and no timeout can be infinite."""
    for key in section.__struct_fields__:
        value = getattr(section, key)
        if isinstance(value, Section):
            _require_finite(value, f"{path}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{path}{key}", value, "a finite number")


def _require_levels(levels: tuple[float, ...]) -> None:
    """Raises ConfigError for levels that every server refuses."""
    inside = all(0 < level < 1 for level in levels)
    if len(levels) > MAX_LEVELS or not inside or any(low >= high for low, high in pairwise(levels)):
        expected = f"at most {MAX_LEVELS} ascending numbers in (0, 1)"
        raise ConfigError("worker.quantiles", list(levels), expected)


# Rewrites msgspec's expectations in words for users.
_WORDS = (
    (r"^Expected ", ""),
    (r", got .*$", ""),
    ("`", ""),
    (rf"^str matching regex .*{re.escape('[A-Z0-9]+')}.*$", "a product such as BTC-USD"),
    (r"^(str|array) of length >= 1$", r"\1, not empty"),
    (r"^int\b", "a whole number"),
    (r"^float\b", "a number"),
    (r"^str\b", "text"),
    (r"^array\b", "a list"),
    (r"^object\b", "a section with keys below it"),
    (r" (>=?|<=?) (-?\d+)\.0$", r" \1 \2"),
)


def _explain(message: str, tree: dict[str, Any]) -> ConfigError:
    """Turns "Expected `int` <= 65535 - at `$.server.port`" into key, value and expectation."""
    expected, _, where = message.partition(" - at ")
    in_key = where.startswith("`key` in ")
    path = re.findall(r"\w+", where.removeprefix("`key` in "))
    value = _value_at(tree, path)
    unknown = re.match(r"Object contains unknown field `(.*)`", expected)
    if in_key:
        expected = "keys that are names"
    elif unknown:
        known = getattr(_type_at(path), "__struct_fields__", ())
        path, value = [*path, unknown[1]], _value_at(value, [unknown[1]])
        expected = f"one of {', '.join(known)}"
        if close := difflib.get_close_matches(unknown[1], known, n=1):
            expected += f" (did you mean {close[0]}?)"
    elif choices := _choices(_type_at(path)):
        expected = f"one of {', '.join(choices)}"
    else:
        for pattern, words in _WORDS:
            expected = re.sub(pattern, words, expected)
    return ConfigError(".".join(path) or "the file", shown(".".join(path), value), expected)


def _value_at(node: Any, path: Sequence[str]) -> Any:
    for step in path:
        try:
            node = node[int(step) if isinstance(node, list) else step]
        except (KeyError, IndexError, TypeError, ValueError):
            break
    return node


def _type_at(path: Sequence[str]) -> Any:
    """The type that Config declares for a key; None where it declares no such key."""
    declared: Any = Config
    for step in path:
        fields = msgspec.structs.fields(declared) if hasattr(declared, "__struct_fields__") else ()
        declared = next((field.type for field in fields if field.name == step), None)
    return declared


def _choices(declared: Any) -> tuple[str, ...]:
    return get_args(declared) if getattr(declared, "__origin__", None) is Literal else ()
