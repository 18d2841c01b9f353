# mypy: ignore-errors
"""Ray Serve: one replica that answers over HTTP or gRPC, on a port of its own or behind the proxy."""

from __future__ import annotations

import os
import signal
import tempfile

# Ray takes a laptop's view of itself with this off, and listens on loopback only. Read at import.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

import numpy as np
import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from scoring import FEATURES, HOST, Scorer, port

from volcast.v1 import PredictResponse

STUBS = "volcast.v1.inference_pb2_grpc.add_InferenceServiceServicer_to_server"


@serve.deployment(num_replicas=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
class Volatility:
    def __init__(self) -> None:
        self._score = Scorer()

    async def Predict(self, request):  # noqa: N802
        packed = request.packed
        rows = np.frombuffer(packed.values, dtype="<f8").reshape(packed.row_count, FEATURES)
        return PredictResponse(
            model_name="volatility", model_version="1", threshold=0.5, probabilities=self._score(rows)
        )

    async def __call__(self, request):
        body = await request.json()
        return {"probabilities": self._score(np.array(body["rows"])).tolist()}


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        # Serve binds its gRPC ports to every interface in each of its processes.
        runtime_env={"worker_process_setup_hook": "loopback.bind_grpc"},
        _temp_dir=tempfile.gettempdir(),
        object_store_memory=80 * 2**20,
    )
    # Direct to the replica, its port is the measured one and the proxy gets another.
    proxy_port = port("PEER_THIRD_PORT" if "PEER_DIRECT" in os.environ else "PEER_PORT")
    serve.start(
        http_options=HTTPOptions(host=HOST, port=port("PEER_SPARE_PORT")),
        grpc_options=gRPCOptions(port=proxy_port, grpc_servicer_functions=[STUBS]),
        logging_config={"enable_access_log": False},
    )
    serve.run(Volatility.bind(), name="default", route_prefix="/")
    signal.sigwait([signal.SIGTERM])
    ray.shutdown()
