"""Whether the process in this container does its work: `healthcheck.py server|gateway|worker|ingestor|exchange`.

Reads the same configuration as the process it asks, so a changed port is followed. Exits 0 when
healthy, else 1 with one line that says what was wrong.
"""

from __future__ import annotations

import socket
import ssl
import sys
from typing import Any

from common.config import Config, load_config
from common.proxies import channel_options, open_url

TIMEOUT_S = 3.0


def server(config: Config) -> str:
    if config.server.tls_cert or config.server.health_needs_token:
        # A caller from outside has a certificate or a token; this process has neither, and asks at the other door.
        return _has_sample(config.server.metrics_port, "volcast_server_ready 1.0")
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    address = f"127.0.0.1:{config.server.port}"
    with grpc.insecure_channel(address, options=channel_options(address)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S, wait_for_ready=True)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return "" if status == "SERVING" else f"grpc.health.v1 says {status}"


def gateway(config: Config) -> str:
    _get(config.gateway.port, "/health", "https" if config.gateway.tls_cert else "http")
    return ""


def worker(config: Config) -> str:
    return _has_sample(config.worker.metrics_port, "volcast_worker_features_total ")


def ingestor(config: Config) -> str:
    return _has_sample(config.ingest.metrics_port, "volcast_ingest_connected 1.0")


def exchange(config: Config) -> str:
    socket.create_connection(("127.0.0.1", config.exchange.port), TIMEOUT_S).close()
    return ""


CHECKS = {"server": server, "gateway": gateway, "worker": worker, "ingestor": ingestor, "exchange": exchange}


def _get(port: int, path: str, scheme: str = "http") -> str:
    # The certificate names the service, not 127.0.0.1, and nobody stands between a container and itself.
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    url = f"{scheme}://127.0.0.1:{port}{path}"
    with open_url(url, TIMEOUT_S, context=trust) as response:
        return str(response.read().decode())


def _has_sample(port: int, start: str) -> str:
    lines = _get(port, "/metrics").splitlines()
    return "" if any(line.startswith(start) for line in lines) else f"/metrics has no line `{start}`"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        print(f"usage: healthcheck.py {'|'.join(CHECKS)}")
        return 2
    try:
        fault = CHECKS[arguments[0]](load_config())
    except Exception as error:  # whatever went wrong is the answer
        fault = " ".join(str(error).split()) or type(error).__name__
    print(f"unhealthy: {fault}" if fault else "healthy")
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
