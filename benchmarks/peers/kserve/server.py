# mypy: ignore-errors
"""KServe's Python model server with a custom model, in one process."""

from __future__ import annotations

import asyncio
import logging

import uvloop
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.protocol.rest import server as rest
from loopback import bind_grpc
from scoring import HOST, Scorer, port


class Volatility(Model):
    def __init__(self) -> None:
        super().__init__("volatility")
        self._score = Scorer()
        self.ready = True

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        probabilities = self._score(payload.inputs[0].as_numpy())
        output = InferOutput("probability", [len(probabilities)], "FP64")
        output.set_data_from_numpy(probabilities, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


def bind_http() -> None:
    """KServe listens on every interface and logs every call, and has no setting for either."""
    configure = rest.uvicorn.Config
    rest.uvicorn.Config = lambda *args, **kwargs: configure(*args, **{**kwargs, "host": HOST, "access_log": False})


if __name__ == "__main__":
    uvloop.install()
    # KServe asks for a loop before it runs one.
    asyncio.set_event_loop(asyncio.new_event_loop())
    bind_grpc()
    bind_http()
    server = ModelServer(http_port=port("PEER_SPARE_PORT"), grpc_port=port(), workers=1, enable_latency_logging=False)
    # A line a call otherwise.
    logging.getLogger("kserve").setLevel(logging.WARNING)
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)
    server.start([Volatility()])
