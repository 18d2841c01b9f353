"""Which peers there are, and through which door each is measured: its fastest standard one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.peers import messages
from benchmarks.peers.messages import Rows

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Door:
    """How a request looks on the wire, and where the probabilities are in the answer."""

    protocol: Literal["grpc", "http"]
    path: str
    encode: Callable[[Rows], bytes]
    decode: Callable[[bytes], list[float]]


@dataclass(frozen=True)
class Spec:
    """One row of the table. `folder` holds server.py and requirements.txt; peers may share one."""

    name: str
    title: str
    package: str
    door: Door
    folder: str
    # Added to the server's environment; {port} is the measured door's.
    env: Mapping[str, str] = field(default_factory=dict)
    # Arguments of the environment's Python; {port} and {folder} are filled in.
    command: Sequence[str] = ("{folder}/server.py",)
    ready_s: float = 60

    @property
    def path(self) -> Path:
        return HERE / self.folder

    @property
    def version(self) -> str:
        """Of the framework, as its requirements file pins it."""
        pins = dict(line.split("==") for line in (self.path / "requirements.txt").read_text().split())
        return pins[self.package]


_VOLCAST = Door("grpc", "/volcast.v1.InferenceService/Predict", messages.volcast_request, messages.volcast_answer)
_INFERENCE = Door("grpc", "/inference.GRPCInferenceService/ModelInfer", messages.infer_request, messages.infer_answer)
_INFERENCE_JSON = Door("http", "/v2/models/volatility/infer", messages.infer_json_request, messages.infer_json_answer)
_JSON = Door("http", "/predict", messages.json_request, messages.json_answer)

# Ray's own guide for throughput: user code on the replica's loop, logs buffered.
_RAY_PROXY = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
# The replica has a port of its own, from a range; here a range of one.
_RAY_DIRECT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "{port}",
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": "{next_port}",
    "PEER_DIRECT": "1",
}
_BENTO = ("-m", "bentoml", "serve", "server:Volatility", "--working-dir", "{folder}")

PEERS = {
    spec.name: spec
    for spec in (
        Spec("grpc_aio", "plain grpc.aio + uvloop, same model", "grpcio", _VOLCAST, "grpc_aio"),
        Spec("fastapi", "FastAPI + ONNX Runtime, HTTP JSON", "fastapi", _JSON, "fastapi"),
        Spec("kserve", "KServe, gRPC v2", "kserve", _INFERENCE, "kserve"),
        Spec("mlserver", "MLServer, HTTP JSON v2", "mlserver", _INFERENCE_JSON, "mlserver"),
        Spec("pytriton", "PyTriton, gRPC v2", "nvidia-pytriton", _INFERENCE, "pytriton"),
        Spec("ray_serve", "Ray Serve, HTTP to the replica", "ray", _JSON, "ray_serve", _RAY_DIRECT, ready_s=120),
        Spec("ray_serve_proxy", "Ray Serve, gRPC proxy", "ray", _VOLCAST, "ray_serve", _RAY_PROXY, ready_s=120),
        Spec(
            "bentoml",
            "BentoML, HTTP JSON",
            "bentoml",
            _JSON,
            "bentoml",
            # A quarter of a call's time, in a profile, for spans that nobody collects.
            env={"OTEL_SDK_DISABLED": "true"},
            command=(*_BENTO, "--host", "127.0.0.1", "--port", "{port}"),
        ),
    )
}
