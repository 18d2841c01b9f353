"""Envoy and HAProxy in front of two servers, with health checks, as their documentation sets them up for gRPC."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import grpc

from benchmarks.processes import free_port

CHECK = "/grpc.health.v1.Health/Check"
CHECK_INTERVAL_S = 0.2
READY_S = 20.0
# .ci/envoy installs it there: its wheel brings nothing but the program.
ENVOY = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "volcast" / "envoy" / "bin" / "envoy"


@dataclass(frozen=True)
class Backend:
    """One server: its gRPC port and its metrics port."""

    port: int
    metrics_port: int


def program(name: str) -> str:
    """Path of a balancer's program. Raises RuntimeError where it is not installed."""
    path = str(ENVOY) if name == "envoy" and ENVOY.exists() else shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is not installed")
    return path


@contextmanager
def balancer(name: str, backends: Sequence[Backend], *, hpack_table_size: int | None = None) -> Iterator[str]:
    """host:port of a running balancer, once a health check through it succeeds.

    hpack_table_size: of Envoy, for both sides; None: its default.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config"
        if name == "envoy":
            file = file.with_suffix(".json")
            file.write_text(json.dumps(_envoy(port, backends, hpack_table_size)))
            command = [program(name), "-c", str(file), "--concurrency", "1", "--log-level", "error"]
            command += ["--base-id", str(port), "--drain-time-s", "1"]
        else:
            file.write_text(_haproxy(port, backends))
            command = [program(name), "-db", "-f", str(file)]
        with (Path(folder) / "log").open("w+b") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                _await_ready(f"127.0.0.1:{port}", process, log.name)
                yield f"127.0.0.1:{port}"
            finally:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _await_ready(address: str, process: subprocess.Popen[bytes], log: str) -> None:
    deadline_s = monotonic() + READY_S
    while process.poll() is None and monotonic() < deadline_s:
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            check: Any = channel.unary_unary(CHECK)
            try:
                check(b"", timeout=1)
                return
            except grpc.RpcError:
                sleep(0.05)
    raise RuntimeError(f"the balancer is not ready: {Path(log).read_text()[-500:]}")


def _envoy(port: int, backends: Sequence[Backend], hpack_table_size: int | None) -> dict[str, Any]:
    http2: dict[str, Any] = {} if hpack_table_size is None else {"hpack_table_size": hpack_table_size}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "servers", "timeout": "0s"}}
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    manager_type = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    manager = {
        "@type": f"type.googleapis.com/{manager_type}",
        "stat_prefix": "grpc",
        "codec_type": "HTTP2",
        "http2_protocol_options": http2,
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": router}}],
    }
    check = {
        "timeout": "1s",
        "interval": f"{CHECK_INTERVAL_S}s",
        "no_traffic_interval": f"{CHECK_INTERVAL_S}s",
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "grpc_health_check": {},
    }
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    cluster = {
        "name": "servers",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        # By default Envoy applies at most one change of health a second, so it could miss a lame duck of a second.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "health_checks": [check],
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": http2},
            }
        },
        "load_assignment": {
            "cluster_name": "servers",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(one.port)}} for one in backends]}],
        },
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "grpc", "address": _address(port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _haproxy(port: int, backends: Sequence[Backend]) -> str:
    """HAProxy has no health check of gRPC's own: it reads `volcast_server_ready` from /metrics."""
    servers = "\n".join(
        f"  server s{backend.port} 127.0.0.1:{backend.port} proto h2 check port {backend.metrics_port} "
        f"check-proto h1 inter {round(CHECK_INTERVAL_S * 1000)}ms fall 1 rise 1"
        for backend in backends
    )
    return f"""
global
  nbthread 1
defaults
  mode http
  timeout connect 1s
  timeout check 2s
  timeout client 1h
  timeout server 1h
  timeout http-request 10s
frontend grpc
  bind 127.0.0.1:{port} proto h2
  default_backend servers
backend servers
  balance roundrobin
  option httpchk GET /metrics
  http-check expect rstring "volcast_server_ready 1"
{servers}
"""
