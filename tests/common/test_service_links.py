"""Variables that Kubernetes injects for each Service are ignored; mistakes that look similar are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import Config, load_config
from common.errors import ConfigError

TCP = "tcp://10.96.0.7:50051"


def service_links(name: str, port: int = 50051, protocol: str = "tcp", address: str = "10.96.0.7") -> dict[str, str]:
    """What the kubelet adds for one Service with one port named grpc (kubernetes: docker links compatible)."""
    prefix = name.upper().replace("-", "_")
    url = f"{protocol}://{f'[{address}]' if ':' in address else address}:{port}"
    link = f"{prefix}_PORT_{port}_{protocol.upper()}"
    return {
        f"{prefix}_SERVICE_HOST": address,
        f"{prefix}_SERVICE_PORT": str(port),
        f"{prefix}_SERVICE_PORT_GRPC": str(port),
        f"{prefix}_SERVICE_PORT_GRPC_WEB": str(port),
        f"{prefix}_PORT": url,
        link: url,
        f"{link}_PROTO": protocol,
        f"{link}_PORT": str(port),
        f"{link}_ADDR": address,
    }


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
@pytest.mark.parametrize("address", ["10.96.0.7", "fd00:10:96::7"])
@pytest.mark.parametrize(
    "service", ["volcast", "volcast-metrics", "volcast-server", "volcast-service", "volcast-2", "volcast--eu"]
)
def test_the_variables_of_a_service_change_nothing(service: str, address: str, protocol: str) -> None:
    links = service_links(service, protocol=protocol, address=address)
    assert load_config(environ=links) == Config()


@pytest.mark.parametrize("name", list(service_links("volcast")))
def test_each_form_is_ignored_without_its_companions(name: str) -> None:
    assert load_config(environ={name: service_links("volcast")[name]}) == Config()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VOLCAST_PORT", "50051"),
        ("VOLCAST_PORT", "http://10.96.0.7:50051"),
        ("VOLCAST_PORT", "tcp://10.96.0.7"),
        ("VOLCAST_PORT", "tcp://10.96.0.7:70000"),
        ("VOLCAST_PORT", ""),
        ("VOLCAST_HOST", "10.96.0.7"),
        ("VOLCAST_SERVER_PORT", "50051"),
        ("VOLCAST_SERVICE_HOST", "my host"),
        ("VOLCAST_SERVICE_PORT", "grpc"),
        ("VOLCAST_PORT_50051", TCP),
        ("VOLCAST_PORT_50051_TCP", "50051"),
        ("VOLCAST_PORT_50051_TCP_ADDR", ""),
        ("VOLCAST_PORT_50051_HTTP", TCP),
        ("VOLCAST_SERVER", "10.96.0.7:50051"),
    ],
)
def test_a_mistake_is_refused_with_the_hint(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"expected VOLCAST_SECTION__KEY.*, got '{name}'"):
        load_config(environ={name: value})


def test_a_service_whose_variable_is_also_a_setting_is_ignored_and_a_setting_of_that_name_counts() -> None:
    links = service_links("volcast-server--metrics", 9101)
    assert links["VOLCAST_SERVER__METRICS_PORT"].startswith("tcp://")
    assert load_config(environ=links) == Config()
    # Kubernetes lets the pod's own `env` replace the link of that name.
    assert load_config(environ=links | {"VOLCAST_SERVER__METRICS_PORT": "9199"}).server.metrics_port == 9199


def test_a_url_in_a_port_setting_is_refused_where_no_service_explains_it() -> None:
    with pytest.raises(ConfigError, match=r"server\.metrics_port: expected a whole number, got 'tcp://"):
        load_config(environ={"VOLCAST_SERVER__METRICS_PORT": TCP})
    with pytest.raises(ConfigError, match=r"server\.port: expected a whole number, got 'tcp://"):
        load_config(environ={"VOLCAST_SERVER__PORT": TCP})


def test_links_in_a_dotenv_file_are_ignored_too() -> None:
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in service_links("volcast").items()))
    assert load_config() == Config()
