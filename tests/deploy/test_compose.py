from __future__ import annotations

import re
from typing import Any

import pytest

from common.config import Config, load_config
from tests.deploy.files import DEPLOY, PARTS, defaults, environment, load

COMPOSE = (DEPLOY / "compose.yaml").read_text()
SIMULATED = (DEPLOY / "compose.simulated.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = load("compose.yaml")["services"]
OF_DEFAULTS = Config()

# Where each port of docs/operations.md is published, and the variable that moves it.
PUBLISHED = {
    "kafka": ("KAFKA_PORT", OF_DEFAULTS.broker.port),
    "server": ("GRPC_PORT", OF_DEFAULTS.server.port),
    "gateway": ("GATEWAY_PORT", OF_DEFAULTS.gateway.port),
    "mlflow": ("MLFLOW_PORT", 5000),
    "prometheus": ("PROMETHEUS_PORT", 9090),
    "grafana": ("GRAFANA_PORT", 3000),
}


def container_config(part: str) -> Config:
    """The configuration that a part sees in its container."""
    text = {key: str(value) for key, value in SERVICES[part].get("environment", {}).items()}
    return load_config(
        environ=environment(part) | {key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text[key]) for key in text}
    )


def test_every_port_is_published_on_loopback_and_can_be_moved() -> None:
    for service, (variable, port) in PUBLISHED.items():
        assert SERVICES[service]["ports"] == [f"${{BIND_ADDRESS:-127.0.0.1}}:${{{variable}:-{port}}}:{port}"]
    assert {name for name, service in SERVICES.items() if "ports" in service} == set(PUBLISHED)


def test_env_example_lists_each_variable_with_its_default() -> None:
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    listed = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert listed == defaults(COMPOSE) | defaults(SIMULATED)


def test_every_variable_has_a_default() -> None:
    for text in (COMPOSE, SIMULATED):
        assert set(re.findall(r"\$\{(\w+)", text)) == set(defaults(text))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_capabilities_and_its_limits(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert {"mem_limit", "cpus", "pids_limit"} <= set(service)
    assert not {"privileged", "network_mode", "cap_add"} & set(service)


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in PARTS])
def test_a_foreign_image_is_pinned_and_checked(name: str) -> None:
    assert re.search(r":-v?\d+\.\d+\.\d+\}$", SERVICES[name]["image"])
    assert "test" in SERVICES[name]["healthcheck"]


@pytest.mark.parametrize("part", PARTS)
def test_our_containers_cannot_write_outside_volumes_and_tmp(part: str) -> None:
    assert SERVICES[part]["read_only"] is True
    assert [mount.split(":")[0] for mount in SERVICES[part]["tmpfs"]] == ["/tmp"]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_waits_until_what_it_needs_is_healthy(part: str) -> None:
    needed = {"ingestor": {"kafka"}, "worker": {"kafka", "server"}, "server": set(), "gateway": {"server"}}
    waits_for = SERVICES[part].get("depends_on", {})
    assert set(waits_for) == needed[part]
    assert all(entry == {"condition": "service_healthy"} for entry in waits_for.values())


def test_models_are_mounted_read_only_where_the_server_looks() -> None:
    assert SERVICES["server"]["volumes"] == [f"../models:{container_config('server').server.models_dir}:ro"]


def test_the_worker_finds_manifests_where_the_server_does() -> None:
    """Live drift is against the reference in the manifest of the model that answers."""
    assert f"../models:{container_config('worker').server.models_dir}:ro" in SERVICES["worker"]["volumes"]


def test_what_is_written_goes_to_a_volume() -> None:
    assert SERVICES["ingestor"]["volumes"] == ["archive:/data"]
    assert container_config("ingestor").ingest.archive_dir.startswith("/data/")
    assert SERVICES["worker"]["volumes"][0] == "features:/data"
    assert container_config("worker").worker.parquet_dir.startswith("/data/")
    named = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    assert {name for name in named if not name.startswith(".")} == set(load("compose.yaml")["volumes"])


def test_parts_reach_each_other_by_service_name() -> None:
    internal = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")[0].removeprefix("INTERNAL://")
    for part in ("ingestor", "worker"):
        assert container_config(part).kafka.bootstrap_servers == internal == "kafka:19092"
    server = f"server:{container_config('server').server.port}"
    assert container_config("worker").worker.server == container_config("gateway").gateway.server == server


def test_containers_listen_beyond_their_own_loopback() -> None:
    assert container_config("server").server.host == container_config("server").server.metrics_host == "0.0.0.0"
    assert container_config("gateway").gateway.host == "0.0.0.0"
    assert container_config("server").server.allow_plaintext
    assert container_config("gateway").gateway.allow_plaintext
    assert container_config("worker").worker.metrics_host == "0.0.0.0"
    assert container_config("ingestor").ingest.metrics_host == "0.0.0.0"


def test_the_feed_is_the_configured_default() -> None:
    ingest = container_config("ingestor").ingest
    assert (ingest.url, ingest.products) == (OF_DEFAULTS.ingest.url, OF_DEFAULTS.ingest.products)


def test_the_simulated_exchange_takes_the_place_of_the_real_one() -> None:
    services = load("compose.simulated.yaml")["services"]
    port = OF_DEFAULTS.exchange.port
    assert services["ingestor"]["environment"] == {"VOLCAST_INGEST__URL": f"ws://exchange:{port}"}
    assert services["exchange"]["healthcheck"]["test"][-1] == "exchange"
    assert services["exchange"]["entrypoint"] == ["volcast", "exchange", "--simulate"]
    assert services["exchange"]["read_only"] is True
    assert services["exchange"]["cap_drop"] == ["ALL"]
