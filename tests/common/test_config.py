"""What configuration takes, from where, and what it says of what it does not take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import yaml

from common.config import OTHER_VARIABLES, Config, ServerConfig, WorkerConfig, load_config, names_a_kafka
from common.errors import ConfigError, InputError
from common.schema import SCHEMAS
from common.status import STATUS_FD
from pipeline.datasets import DATA_DIR

ROOT = Path(__file__).parents[2]
NO_ENVIRONMENT: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "config.yaml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def test_without_any_file_or_variable_every_key_has_its_default() -> None:
    assert load_config(environ=NO_ENVIRONMENT) == Config()


def test_the_shipped_file_shows_the_defaults() -> None:
    assert load_config(ROOT / "config.yaml", NO_ENVIRONMENT) == Config()


def test_every_key_of_the_shipped_file_is_one_that_config_knows() -> None:
    shipped = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert set(shipped) == set(Config.__struct_fields__)


def test_config_yaml_of_the_working_directory_is_read_unasked() -> None:
    written("server: {port: 1234}")
    assert load_config(environ=NO_ENVIRONMENT).server.port == 1234


def test_the_environment_beats_dotenv_which_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VOLCAST_SERVER__PORT", "VOLCAST_GATEWAY__PORT", "VOLCAST_BROKER__PORT"):
        monkeypatch.delenv(name, raising=False)
    written("server: {port: 1}\ngateway: {port: 1}\nbroker: {port: 1}")
    written("VOLCAST_SERVER__PORT=2\nVOLCAST_GATEWAY__PORT=2\n", ".env")
    monkeypatch.setenv("VOLCAST_SERVER__PORT", "3")
    config = load_config()
    assert (config.server.port, config.gateway.port, config.broker.port) == (3, 2, 1)


def test_a_variable_names_nested_keys_and_lists() -> None:
    environ = {"VOLCAST_KAFKA__TOPICS__RAW": "raw", "VOLCAST_INGEST__PRODUCTS": "SOL-USD, BTC-USD"}
    config = load_config(environ=environ)
    assert config.kafka.topics.raw == "raw"
    assert config.ingest.products == ("SOL-USD", "BTC-USD")


@pytest.mark.parametrize(
    "name", ["BTC-USD", "BTC-PERP-INTX", "BIT-28JUN24-CDE", "1INCH-USD", "BTCUSDT", "BTCUSDT_240927"]
)
def test_products_of_every_exchange_are_taken(name: str) -> None:
    assert load_config(environ={"VOLCAST_INGEST__PRODUCTS": name}).ingest.products == (name,)


@pytest.mark.parametrize("name", ["btc-usd", "BTC--USD", "-USD", "BTC-", "BTC USD", "BTC-USD;X", "A" * 61])
def test_other_names_are_no_products(name: str) -> None:
    with pytest.raises(ConfigError, match=r"ingest\.products\.0"):
        load_config(environ={"VOLCAST_INGEST__PRODUCTS": name})


def test_a_product_ends_with_its_last_character() -> None:
    with pytest.raises(ConfigError, match="a product such as BTC-USD"):
        load_config(written('ingest: {products: ["BTC-USD\\n"]}'), NO_ENVIRONMENT)


def test_variables_that_are_no_keys_are_not_read() -> None:
    names = (*OTHER_VARIABLES, "VOLCAST_TEST_KAFKA", "HOME", "VOLCASTER", "volcast_server_port")
    assert load_config(environ=dict.fromkeys(names, "7")) == Config()


def test_the_variables_that_are_no_keys_are_those_the_project_reads() -> None:
    compose = (ROOT / "deploy" / ".env.example").read_text()
    of_compose = {name for name in re.findall(r"^(\w+)=", compose, re.MULTILINE) if name.startswith("VOLCAST_")}
    assert set(OTHER_VARIABLES) == {STATUS_FD, DATA_DIR, *of_compose}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("VOLCAST_SERVER_PORT", " such as VOLCAST_SERVER__PORT"),
        ("VOLCAST_SERVER", " such as VOLCAST_SERVER__PORT"),
        ("VOLCAST_KAFKA_TOPICS_RAW", " such as VOLCAST_KAFKA__TOPICS__RAW"),
        ("VOLCAST_DATADIR", " such as VOLCAST_DATA_DIR"),
        ("VOLCAST_SERVER__PROT", " such as VOLCAST_SERVER__PORT"),
        ("VOLCAST_SEVER__PORT", " such as VOLCAST_SERVER__PORT"),
        ("VOLCAST_SERVER__PORT__X", " such as VOLCAST_SERVER__PORT"),
        ("VOLCAST_KAFKA__TOPIC__RAW", " such as VOLCAST_KAFKA__TOPICS__RAW"),
        ("VOLCAST_XQ", ""),
    ],
)
def test_a_misspelt_variable_is_told_with_the_one_that_was_meant(name: str, meant: str) -> None:
    message = f"expected VOLCAST_SECTION__KEY{meant}, got '{name}'"
    with pytest.raises(ConfigError) as caught:
        load_config(environ={name: "1"})
    assert str(caught.value) == f"config: environment: {message}"
    written(f"{name}=1\n", ".env")
    with pytest.raises(ConfigError) as caught:
        load_config()
    assert str(caught.value) == f"config: .env: {message}"


def addresses(config: Config) -> tuple[str, str, str]:
    return config.worker.server, config.gateway.server, config.kafka.bootstrap_servers


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("fe80::1", "[fe80::1]"),
        ("inference.internal", "inference.internal"),
    ],
)
def test_who_asks_follows_the_server_and_the_broker_to_another_address(host: str, reached: str) -> None:
    environ = {"VOLCAST_SERVER__PORT": "50151", "VOLCAST_BROKER__PORT": "19092"}
    environ |= {"VOLCAST_SERVER__HOST": host, "VOLCAST_BROKER__HOST": host}
    config = load_config(environ=environ)
    assert addresses(config) == (f"{reached}:50151", f"{reached}:50151", f"{reached}:19092")
    assert (config.server.host, config.broker.host) == (host, host)


def test_who_asks_for_tokens_at_the_server_asks_for_them_at_the_gateway() -> None:
    environ = {"VOLCAST_SERVER__TOKENS_FILE": "tokens"}
    assert load_config(environ=environ).gateway.tokens_file == "tokens"
    assert load_config(environ=environ | {"VOLCAST_GATEWAY__TOKENS_FILE": "other"}).gateway.tokens_file == "other"


def test_addresses_that_are_set_stay_as_they_are() -> None:
    path = written("server: {port: 1}\nworker: {server: a:1}\ngateway: {server: b:2}\nkafka: {bootstrap_servers: c:3}")
    assert addresses(load_config(path, NO_ENVIRONMENT)) == ("a:1", "b:2", "c:3")


def test_only_a_configured_kafka_is_named() -> None:
    assert not names_a_kafka(written("kafka: {bootstrap_servers: ''}"), NO_ENVIRONMENT)
    assert not names_a_kafka(written("kafka: {partitions: 2}\nbroker: {port: 1}"), NO_ENVIRONMENT)
    assert not names_a_kafka(written("kafka: none"), NO_ENVIRONMENT)
    # Even at the address at which `volcast run` would start its own.
    assert names_a_kafka(written("kafka: {bootstrap_servers: '127.0.0.1:9092'}"), NO_ENVIRONMENT)
    assert names_a_kafka(written(""), {"VOLCAST_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9092"})


def test_an_address_set_to_nothing_is_the_one_of_this_configuration() -> None:
    path = written("gateway: {server: elsewhere:1}")
    assert load_config(path, {"VOLCAST_GATEWAY__SERVER": ""}).gateway.server == "127.0.0.1:50051"


def test_a_configuration_built_without_any_file_has_its_addresses_too() -> None:
    assert addresses(Config()) == ("127.0.0.1:50051", "127.0.0.1:50051", "127.0.0.1:9092")
    assert addresses(Config(server=ServerConfig(port=1)))[:2] == ("127.0.0.1:1", "127.0.0.1:1")


def test_a_section_whose_keys_are_all_commented_out_is_empty() -> None:
    assert load_config(written("server:\n  # port: 1\n"), NO_ENVIRONMENT) == Config()


SERVER_KEYS = ", ".join(ServerConfig.__struct_fields__)
LEVELS = "at most 16 ascending numbers in (0, 1)"
SEVENTEEN = [round(0.05 * (1 + i), 2) for i in range(17)]


@pytest.mark.parametrize(
    ("text", "key", "value", "expected"),
    [
        ("log: {level: loud}", "log.level", "loud", "one of debug, info, warning, error"),
        ("log: {format: xml}", "log.format", "xml", "one of auto, json, console"),
        ("kafka: {session_timeout_ms: 5999}", "kafka.session_timeout_ms", 5999, "a whole number >= 6000"),
        ("broker: {retention_bytes: 4194303}", "broker.retention_bytes", 4194303, "a whole number >= 4194304"),
        ("broker: {retention_s: 0}", "broker.retention_s", 0, "a number > 0"),
        ("broker: {data_dir: ''}", "broker.data_dir", "", "text, not empty"),
        ("log: {level: 3}", "log.level", 3, "one of debug, info, warning, error"),
        ("server: {port: 70000}", "server.port", 70000, "a whole number <= 65535"),
        ("server: {port: -1}", "server.port", -1, "a whole number >= 0"),
        ("server: {port: http}", "server.port", "http", "a whole number"),
        ("server: {port: true}", "server.port", True, "a whole number"),
        ("server: {port: }", "server.port", None, "a whole number"),
        ("server: {max_rows: 0}", "server.max_rows", 0, "a whole number >= 1"),
        ("kafka: {timeout_s: 0}", "kafka.timeout_s", 0, "a number > 0"),
        ("kafka: {timeout_s: -1.5}", "kafka.timeout_s", -1.5, "a number > 0"),
        ("kafka: {timeout_s: soon}", "kafka.timeout_s", "soon", "a number"),
        ("kafka: {timeout_s: .inf}", "kafka.timeout_s", float("inf"), "a finite number"),
        ("kafka: {topics: ticks}", "kafka.topics", "ticks", "a section with keys below it"),
        ("kafka: {topics: {raw: ''}}", "kafka.topics.raw", "", "text, not empty"),
        ("worker: {group_id: 5}", "worker.group_id", 5, "text"),
        ("worker: {schema: core/9}", "worker.schema", "core/9", "one of core/1, full/1, full/2"),
        ("worker: {spike_bps: -0.1}", "worker.spike_bps", -0.1, "a number >= 0"),
        ("worker: {spike_bps: .inf}", "worker.spike_bps", float("inf"), "a finite number"),
        ("worker: {quantiles: 0.5}", "worker.quantiles", 0.5, "a list"),
        ("worker: {quantiles: [half]}", "worker.quantiles.0", "half", "a number"),
        ("worker: {quantiles: [0, 0.5]}", "worker.quantiles", [0.0, 0.5], LEVELS),
        ("worker: {quantiles: [0.5, 1]}", "worker.quantiles", [0.5, 1.0], LEVELS),
        ("worker: {quantiles: [0.5, 0.5]}", "worker.quantiles", [0.5, 0.5], LEVELS),
        ("worker: {quantiles: [0.9, 0.1]}", "worker.quantiles", [0.9, 0.1], LEVELS),
        (f"worker: {{quantiles: {SEVENTEEN}}}", "worker.quantiles", SEVENTEEN, LEVELS),
        ("ingest: {products: BTC-USD}", "ingest.products", "BTC-USD", "a list"),
        ("ingest: {products: []}", "ingest.products", [], "a list, not empty"),
        ("ingest: {products: [BTC-USD, eth]}", "ingest.products.1", "eth", "a product such as BTC-USD"),
        ("server: 5", "server", 5, "a section with keys below it"),
        ("server: {prot: 1}", "server.prot", 1, f"one of {SERVER_KEYS} (did you mean port?)"),
        ("server: {max-rows: 1}", "server.max-rows", 1, f"one of {SERVER_KEYS} (did you mean max_rows?)"),
        (
            "sever: {port: 1}",
            "sever",
            {"port": 1},
            f"one of {', '.join(Config.__struct_fields__)} (did you mean server?)",
        ),
        ("server: {1: 2}", "server", {1: 2}, "keys that are names"),
        ("5: 6", "5", 6, f"one of {', '.join(Config.__struct_fields__)}"),
    ],
)
def test_a_bad_value_is_told_with_its_key_and_what_was_expected(
    text: str, key: str, value: object, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(text), NO_ENVIRONMENT)
    assert (caught.value.key, caught.value.value, caught.value.expected) == (key, value, expected)
    assert str(caught.value) == f"config: {key}: expected {expected}, got {value!r}"


def test_levels_of_quantiles_come_from_the_file_or_a_variable() -> None:
    path = written(f"worker: {{quantiles: {SEVENTEEN[:16]}, spike_bps: 2.5, schema: full/2}}")
    worker = load_config(path, NO_ENVIRONMENT).worker
    assert (worker.quantiles, worker.spike_bps, worker.schema) == (tuple(SEVENTEEN[:16]), 2.5, "full/2")
    assert load_config(path, {"VOLCAST_WORKER__QUANTILES": "0.1, 0.9"}).worker.quantiles == (0.1, 0.9)
    assert load_config(path, {"VOLCAST_WORKER__QUANTILES": ""}).worker.quantiles == ()


def test_every_schema_of_the_feature_engine_can_be_configured() -> None:
    schema = next(field for field in msgspec.structs.fields(WorkerConfig) if field.name == "schema")
    assert get_args(schema.type) == tuple(SCHEMAS)


def test_a_bad_value_that_is_not_a_number_is_told_too() -> None:
    with pytest.raises(ConfigError, match=r"^config: kafka\.timeout_s: expected a number > 0, got nan$"):
        load_config(written("kafka: {timeout_s: .nan}"), NO_ENVIRONMENT)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("VOLCAST_SERVER__PORT", "", "config: server.port: expected a whole number, got ''"),
        ("VOLCAST_INGEST__SILENCE_S", "inf", "config: ingest.silence_s: expected a finite number, got inf"),
        ("VOLCAST_INGEST__PRODUCTS", "", "config: ingest.products.0: expected a product such as BTC-USD, got ''"),
    ],
)
def test_a_bad_variable_is_told_by_the_key_it_sets(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(environ={name: value})
    assert str(caught.value) == message


def test_a_variable_of_a_section_that_is_a_value_in_the_file_is_refused() -> None:
    path = written("server: 5")
    with pytest.raises(ConfigError, match=r"VOLCAST_SERVER__PORT: expected a section, but server holds 5"):
        load_config(path, {"VOLCAST_SERVER__PORT": "1"})


def test_a_variable_with_a_key_in_small_letters_sets_it() -> None:
    assert load_config(environ={"VOLCAST_server__port": "7"}).server.port == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"server: {port: 'x", "not YAML: while scanning a quoted scalar"),
        (b"a: b: c", "not YAML: mapping values are not allowed here"),
        (b"\x00", "not YAML: unacceptable character"),
        (b"\xff\xfe\xfa", "cannot be read: "),
        (b"- a\n- b", "expected sections such as `server:`, got ['a', 'b']"),
        (b"text", "expected sections such as `server:`, got 'text'"),
    ],
)
def test_a_file_that_is_no_configuration_is_told_in_one_line(content: bytes, message: str) -> None:
    Path("broken.yaml").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_config(Path("broken.yaml"), NO_ENVIRONMENT)
    assert str(caught.value).startswith(f"config file broken.yaml: {message}")
    assert "\n" not in str(caught.value)
    assert "<unicode string>" not in str(caught.value)


def test_a_file_that_was_named_must_be_there() -> None:
    with pytest.raises(InputError, match=r"^config file nowhere\.yaml: no such file$"):
        load_config(Path("nowhere.yaml"), NO_ENVIRONMENT)


def test_a_file_that_cannot_be_opened_is_told() -> None:
    Path("folder.yaml").mkdir()
    with pytest.raises(InputError, match=r"config file folder\.yaml: cannot be read: "):
        load_config(Path("folder.yaml"), NO_ENVIRONMENT)


def test_a_dotenv_that_is_no_text_is_told() -> None:
    Path(".env").write_bytes(b"VOLCAST_SERVER__PORT=\xff\n")
    with pytest.raises(InputError, match=r"^\.env: cannot be read: "):
        load_config()


def test_an_empty_file_changes_nothing() -> None:
    assert load_config(written(""), NO_ENVIRONMENT) == Config()
