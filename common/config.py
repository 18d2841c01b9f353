"""Configuration: defaults here, then config.yaml, then .env, then the environment.

Read once, at the edge, into frozen values; everything below takes plain arguments. An environment
variable names a key by `VOLCAST_SECTION__KEY`, as in `VOLCAST_SERVER__PORT=50052`.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import yaml
from dotenv import dotenv_values

from common.errors import ConfigError, InputError

ENV_PREFIX = "VOLCAST_"
DEFAULT_FILE = "config.yaml"
ENV_FILE = ".env"
# Names that begin like a key's and are none; any other without "__" is a misspelt key.
OTHER_VARIABLES = (
    "VOLCAST_DATA_DIR",  # recorded market data, for training and tests
    "VOLCAST_STATUS_FD",  # the pipe that `volcast run` gives to each of its parts
    "VOLCAST_TAG",  # read by docker compose (deploy/.env.example), and exported by who calls it
)
TEST_PREFIX = "VOLCAST_TEST_"

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]  # 0: any free port, announced when ready
Seconds = Annotated[float, msgspec.Meta(ge=0)]
PositiveSeconds = Annotated[float, msgspec.Meta(gt=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Product = Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9]+-[A-Z0-9]+$")]


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


class KafkaConfig(Section, frozen=True):
    bootstrap_servers: str = ""  # empty: the embedded broker at broker.host and broker.port
    topics: Topics = Topics()
    partitions: Positive = 1  # of topics created where they are missing
    linger_ms: Seconds = 0.0  # latency first; 5 suits bulk replay
    timeout_s: PositiveSeconds = 10.0  # how long a broker may be away at start
    # How long a broker holds an empty fetch. The embedded broker answers only when half of it is over,
    # so `volcast run` sets less there; a real Kafka answers as soon as there is something.
    fetch_wait_ms: Positive = 100
    # The embedded broker also waits for half of it before a group's first assignment.
    session_timeout_ms: Annotated[int, msgspec.Meta(ge=1000)] = 45_000


class BrokerConfig(Section, frozen=True):
    host: Text = "127.0.0.1"
    port: Port = 9092


class ExchangeConfig(Section, frozen=True):
    host: Text = "127.0.0.1"
    port: Port = 8765
    seed: int = 1
    rate_per_s: PositiveSeconds = 5.0  # simulated ticks per second and product at speed 1; about Coinbase's


class IngestConfig(Section, frozen=True):
    url: Text = "wss://advanced-trade-ws.coinbase.com"
    products: Annotated[tuple[Product, ...], msgspec.Meta(min_length=1)] = ("BTC-USD", "ETH-USD")
    archive_dir: str = "data/archive"  # empty: no archive
    max_future_s: Seconds = 60.0  # a tick further ahead of our clock is dead; 0: do not look
    silence_s: PositiveSeconds = 15.0  # no message, not even a heartbeat, for so long: reconnect
    connect_timeout_s: PositiveSeconds = 10.0
    metrics_host: Text = "127.0.0.1"  # 0.0.0.0 where Prometheus asks from another machine or container
    metrics_port: Port = 9103


class WorkerConfig(Section, frozen=True):
    server: str = ""  # the inference server it asks; empty: the one at server.host and server.port
    server_token_file: str = ""  # this and the next three: as in gateway
    server_ca: str = ""
    server_cert: str = ""
    server_key: str = ""
    schema: Literal["core/1", "full/1"] = "core/1"  # of the features; the model must take it
    model: str = ""  # the name asked of the server; empty: its default
    group_id: Text = "volcast-worker"
    parquet_dir: str = "data/features"  # empty: no Parquet
    max_batch_ticks: Positive = 1000
    predict_timeout_s: PositiveSeconds = 0.5  # how long features wait for an answer, at most
    max_backlog_rows: Positive = 100_000  # warm rows that wait for an absent server before they are marked missing
    metrics_host: Text = "127.0.0.1"
    metrics_port: Port = 9102


class ServerConfig(Section, frozen=True):
    host: Text = "127.0.0.1"
    port: Port = 50051
    models_dir: Text = "models"
    watch_s: Seconds = 2.0  # how often the models folder is looked at for changes; 0: only when asked to
    default_model: Text = "volatility"
    max_rows: Positive = 65_536  # of one request
    max_message_bytes: Positive = 16 * 1024 * 1024
    front: Literal["auto", "native", "grpcio"] = "auto"  # auto: native
    workers: Positive = 1  # processes that share the port, a supervisor above them where they are more than one
    max_batch: Positive = 2048  # rows of one run of a model; a larger request is a run of its own
    max_queue: Positive = 4096  # calls that wait for the model; the next is refused at once
    max_queue_delay_us: Annotated[int, msgspec.Meta(ge=0, le=4_000_000)] = 0  # how long a batch waits for more calls
    # While calls arrive as close together as this, the native front looks for the next one so long before it
    # sleeps: one call in flight is answered 1.6 times as often as with 0, which sleeps at once. Idle it costs
    # nothing, at such rates up to a core.
    spin_us: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 250
    # The limits below bound what one caller can take from the others; server/security/limits.py applies them.
    max_concurrent_streams: Positive = 1024  # of one connection: many times what keeps a core busy
    max_metadata_bytes: Positive = 16 * 1024  # of one call's headers: tokens and traces take 2 KiB
    min_ping_interval_s: PositiveSeconds = 10.0  # a caller that pings more often, a few times over, is dropped
    keepalive_s: PositiveSeconds = 60.0  # a connection silent for so long is asked whether it lives
    keepalive_timeout_s: PositiveSeconds = 20.0  # and dropped where it does not answer
    handshake_timeout_s: PositiveSeconds = 10.0  # from accept to the end of TLS and HTTP/2 settings
    max_connections: Positive = 16_384  # of the process; each takes some memory and a descriptor
    tls_cert: str = ""  # PEM chain, the server's own first; empty: plaintext
    tls_key: str = ""  # its PEM key
    tls_client_ca: str = ""  # PEM; set: a caller must show a certificate that one of these signed (mTLS)
    tokens_file: str = ""  # lines of `sha256hex name`, as `volcast token` prints them; empty: none is asked for
    health_needs_token: bool = False  # of grpc.health.v1; probes of orchestrators bring none
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
    tls_cert: str = ""  # of its own HTTPS; empty: plain HTTP
    tls_key: str = ""
    tokens_file: str = ""  # as server.tokens_file, and empty: that one
    allow_plaintext: bool = False  # beyond loopback
    server_token_file: str = ""  # holds the token the gateway shows to the server
    server_ca: str = ""  # PEM of who signed the server's certificate; empty: plaintext to the server
    server_cert: str = ""  # PEM the gateway shows to a server that asks for certificates
    server_key: str = ""


class TrackingConfig(Section, frozen=True):
    """Training runs and where MLflow keeps them. The variable MLFLOW_TRACKING_URI wins over `uri`."""

    uri: Text = "sqlite:///data/mlflow.db"  # a file, or http(s)://HOST:PORT of an MLflow server
    artifacts_dir: Text = "data/mlartifacts"  # of the file; a server has its own
    runs_dir: Text = "data/runs"  # each run lands here first, whole
    experiment: Text = "volcast"
    timeout_s: PositiveSeconds = 10.0  # of one request to a server


class GateConfig(Section, frozen=True):
    """What a model must keep to be promoted; docs/promotion.md has the rules."""

    max_latency_us: Annotated[float, msgspec.Meta(gt=0)] = 10.0  # one row in ONNX Runtime, median
    champion_margin: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.02  # PR-AUC below the champion's that may be lost
    seed: int = 0  # of the bootstrap


class MonitorConfig(Section, frozen=True):
    """Live figures of predictions against what happened."""

    windows: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)] = ("15m", "1h", "24h")  # of event time
    refresh_s: PositiveSeconds = 10.0  # how often the figures are made anew
    metrics_host: Text = "127.0.0.1"
    metrics_port: Port = 9104


class Config(Section, frozen=True):
    """All sections. Addresses left empty are filled in when it is built, so no reader sees an empty one."""

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
        # Who closes one door means both.
        self._fill("gateway", "tokens_file", self.server.tokens_file)

    def _fill(self, name: str, key: str, address: str) -> None:
        section = getattr(self, name)
        if not getattr(section, key):
            msgspec.structs.force_setattr(self, name, msgspec.structs.replace(section, **{key: address}))


def reachable(host: str, port: int) -> str:
    """host:port by which this machine reaches what listens there; for a wildcard that is loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def load_config(file: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Reads and validates the configuration.

    file: a YAML file that must exist; None: config.yaml of the working directory where there is one.
    environ: the environment to read; None: this process's, over the .env file of the working directory.

    Raises ConfigError for a value that does not fit, InputError for a file that cannot be read.
    """
    tree = _read_yaml(file)
    if environ is None:
        dotenv = _read_dotenv()
        _require_known_names(dotenv, ENV_FILE)
        environ = {**dotenv, **os.environ}
    _require_known_names(environ, "environment")
    for key, value in sorted(environ.items()):
        if key.startswith(ENV_PREFIX) and "__" in key:
            _set(tree, key, value)
    try:
        # strict=False: environment variables are text, and "50052" is a port.
        config = msgspec.convert(tree, Config, strict=False)
    except msgspec.ValidationError as error:
        raise _explain(str(error), tree) from None
    _require_finite(config)
    return config


def _read_dotenv() -> dict[str, str]:
    try:
        return {key: value or "" for key, value in dotenv_values(ENV_FILE).items()}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{ENV_FILE}: cannot be read: {error}") from None


def _require_known_names(names: Iterable[str], where: str) -> None:
    """A misspelt variable would otherwise be ignored, and its writer believe that it counts."""
    for name in sorted(names):
        if not name.startswith(ENV_PREFIX) or "__" in name or name.startswith(TEST_PREFIX) or name in OTHER_VARIABLES:
            continue
        # Compared without the prefix: what all have in common says nothing.
        known = {one.removeprefix(ENV_PREFIX): one for one in (*_variables(Config), *OTHER_VARIABLES)}
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
        with path.open() as stream:  # not its text: PyYAML's messages name what it reads from
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
        raise InputError(f"config file {path}: expected sections such as `server:`, got {tree!r:.60}")
    # A section all of whose keys are commented out is YAML's null.
    return {str(key): {} if value is None else value for key, value in tree.items()}


def _set(tree: dict[str, Any], name: str, value: str) -> None:
    *sections, key = name.removeprefix(ENV_PREFIX).lower().split("__")
    node = tree
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(name, value, f"a section, but {section} holds {child!r}")
        node = child
    node[key] = [one.strip() for one in value.split(",")] if key in ("products", "windows") else value


def _require_finite(section: Section, path: str = "") -> None:
    """Infinity passes every lower bound, and no timeout or rate takes it."""
    for key in section.__struct_fields__:
        value = getattr(section, key)
        if isinstance(value, Section):
            _require_finite(value, f"{path}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{path}{key}", value, "a finite number")


# What msgspec says is expected, in the words of whoever writes the file.
_WORDS = (
    (r"^Expected ", ""),
    (r", got .*$", ""),
    ("`", ""),
    (rf"^str matching regex .*{re.escape('[A-Z0-9]+-')}.*$", "a product such as BTC-USD"),
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
    elif choices := _choices(_type_at(path)):
        expected = f"one of {', '.join(choices)}"
    else:
        for pattern, words in _WORDS:
            expected = re.sub(pattern, words, expected)
    return ConfigError(".".join(path) or "the file", value, expected)


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
