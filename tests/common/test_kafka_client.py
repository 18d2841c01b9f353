"""Properties of librdkafka in the configuration: which are taken, and that no secret is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.config import load_config
from common.errors import ConfigError, VolcastError
from common.kafka_client import JAVA, OWNED, is_secret

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(kafka: str, environ: dict[str, str] | None = None) -> Any:
    Path("config.yaml").write_text(f"kafka: {kafka}")
    return load_config(environ=environ or {}).kafka


def refusal(kafka: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(VolcastError) as caught:
        load(kafka, environ)
    error = caught.value
    assert SECRET not in f"{error} {error!r} {vars(error)}"
    return str(error)


def test_properties_and_files_of_secrets_are_taken() -> None:
    config = load(
        "{client: {security.protocol: SASL_SSL, sasl.mechanism: SCRAM-SHA-512, sasl.username: ann, "
        "socket.timeout.ms: 5000, enable.ssl.certificate.verification: true}, client_secrets: {sasl.password: /run/p}}"
    )
    assert config.client == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "ann",
        "socket.timeout.ms": 5000,
        "enable.ssl.certificate.verification": True,
    }
    assert config.client_secrets == {"sasl.password": "/run/p"}


def test_a_variable_replaces_the_section_of_the_file() -> None:
    environ = {
        "VOLCAST_KAFKA__CLIENT": '{"security.protocol": "SSL", "ssl.cipher.suites": "A,B"}',
        "VOLCAST_KAFKA__CLIENT_SECRETS": "{ssl.key.password: /run/key}",
    }
    config = load("{client: {client.id: mine}}", environ)
    assert config.client == {"security.protocol": "SSL", "ssl.cipher.suites": "A,B"}
    assert config.client_secrets == {"ssl.key.password": "/run/key"}
    assert load("{client: {client.id: mine}}", {"VOLCAST_KAFKA__CLIENT": ""}).client == {}


def test_a_section_whose_keys_are_all_commented_out_is_empty() -> None:
    assert load("{client: , client_secrets: }").client == {}


@pytest.mark.parametrize("key", OWNED)
def test_properties_that_volcast_sets_are_refused(key: str) -> None:
    line = refusal(f"{{client: {{{key}: 7}}}}")
    assert line == f"config: kafka.client.{key}: expected {OWNED[key]}, got 7"


def test_the_line_of_an_owned_property_names_the_key_to_set() -> None:
    for key, own in (
        ("bootstrap.servers", "kafka.bootstrap_servers"),
        ("group.id", "worker.group_id"),
        ("linger.ms", "kafka.linger_ms"),
    ):
        assert f"expected {own} instead" in refusal(f"{{client: {{{key}: x}}}}")
    for key in ("enable.auto.commit", "isolation.level", "transactional.id", "enable.idempotence", "partitioner"):
        assert "no such key: Volcast sets it" in refusal(f"{{client: {{{key}: x}}}}")
    assert "Volcast sets callbacks" in refusal("{client: {error_cb: x}}")


@pytest.mark.parametrize("key", JAVA)
def test_properties_of_java_are_refused_with_those_of_librdkafka(key: str) -> None:
    assert refusal(f"{{client: {{{key}: {SECRET}}}}}".replace(SECRET, "x")).startswith(
        f"config: kafka.client.{key}: expected {JAVA[key]}"
    )


@pytest.mark.parametrize(
    "key",
    [
        "sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem", "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config", "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.assertion.private.key.pem",
    ],
)  # fmt: skip
def test_a_secret_in_the_open_is_refused_and_not_shown(key: str) -> None:
    expected = f"config: kafka.client.{key}: expected a file with it in kafka.client_secrets.{key}, got a value that "
    assert refusal(f"{{client: {{{key}: {SECRET}}}}}").startswith(expected)
    environ = {"VOLCAST_KAFKA__CLIENT": f"{{{key}: {SECRET}}}"}
    assert refusal("{}", environ).startswith(expected)


@pytest.mark.parametrize("key", ["ssl.ca.location", "sasl.username", "ssl.key.location", "sasl.oauthbearer.scope"])
def test_other_properties_are_no_secrets(key: str) -> None:
    assert not is_secret(key)
    assert f"expected kafka.client.{key} instead: it is no secret" in refusal(f"{{client_secrets: {{{key}: x}}}}")


@pytest.mark.parametrize(
    "kafka",
    [
        f"{{client: {{sasl.jaas.config: 'Login required password={SECRET};'}}}}",
        f"{{client: {{sasl.password: [{SECRET}]}}}}",
        f"{{client: {{sasl.username: [{SECRET}]}}}}",
        f"{{client: {{security.protocol: [a], sasl.pasword: {SECRET}}}}}",
        f"{{client: {{sasl: {{password: {SECRET}}}}}}}",
        f"{{client: sasl.password={SECRET}}}",
        f"{{client: [sasl.password={SECRET}]}}",
        f"{{client: {{1: {SECRET}}}}}",
        f"{{clients: {{sasl.password: {SECRET}}}}}",
        f"{{sasl.password: {SECRET}}}",
        f"{{client_secrets: {SECRET}}}",
        f"{{client_secrets: {{sasl.password: [{SECRET}]}}}}",
        f"{{client_secrets: {{ssl.key.pem: \"-----BEGIN\\n{SECRET}\"}}}}",
        f"sasl.password={SECRET}",
        f"[sasl.password={SECRET}]",
    ],
)  # fmt: skip
def test_no_mistake_shows_the_secret(kafka: str) -> None:
    assert SECRET not in refusal(kafka)


@pytest.mark.parametrize(
    "environ",
    [
        {"VOLCAST_KAFKA__CLIENT": f"sasl.password={SECRET}"},
        {"VOLCAST_KAFKA__CLIENT": f"{{sasl.password: {SECRET}"},
        {"VOLCAST_KAFKA__CLIENT": f"[{SECRET}]"},
        {"VOLCAST_KAFKA__CLIENT_SECRETS": SECRET},
        {"VOLCAST_KAFKA__CLIENT__SASL_PASSWORD": SECRET},
        {"VOLCAST_KAFKA__SASL_PASSWORD": SECRET},
    ],
)
def test_no_variable_shows_the_secret(environ: dict[str, str]) -> None:
    assert SECRET not in refusal("{}", environ)


def test_a_login_needs_a_mechanism() -> None:
    """librdkafka's own message recommends to compile it again."""
    line = refusal("{client: {security.protocol: sasl_ssl}}")
    assert line.startswith("config: kafka.client.sasl.mechanism: expected a mechanism such as SCRAM-SHA-512 or PLAIN")
    assert load("{client: {security.protocol: SASL_SSL, sasl.mechanisms: PLAIN}}").client


@pytest.mark.parametrize(
    ("kafka", "line"),
    [
        ("{replication_factor: -1}", "kafka.replication_factor: expected a whole number >= 0, got -1"),
        ("{retention_ms: -2}", "kafka.retention_ms: expected a whole number >= -1, got -2"),
        ("{create_topics: perhaps}", "kafka.create_topics: expected bool, got 'perhaps'"),
    ],
)
def test_limits(kafka: str, line: str) -> None:
    assert refusal(kafka) == f"config: {line}"


def test_a_value_that_is_no_secret_is_still_shown() -> None:
    with pytest.raises(ConfigError, match=r"^config: kafka.timeout_s: expected a number, got 'soon'$"):
        load("{timeout_s: soon}")
