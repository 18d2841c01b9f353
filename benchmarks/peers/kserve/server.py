# mypy: ignore-errors
"""KServe's Python model server with a custom model, in one process."""

from __future__ import annotations

import asyncio
import logging

import uvloop
from grpc import aio
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.protocol.rest import server as rest
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


def bind_to_loopback() -> None:
    """KServe listens on every interface and has no setting for it."""
    create, configure = aio.server, rest.uvicorn.Config

    def create_on_loopback(*args, **kwargs):
        server = create(*args, **kwargs)
        add = server.add_insecure_port
        server.add_insecure_port = lambda address: add(address.replace("[::]", HOST))
        return server

    aio.server = create_on_loopback
    rest.uvicorn.Config = lambda *args, **kwargs: configure(*args, **{**kwargs, "host": HOST, "access_log": False})


if __name__ == "__main__":
    uvloop.install()
    # KServe asks for a loop before it runs one.
    asyncio.set_event_loop(asyncio.new_event_loop())
    bind_to_loopback()
    server = ModelServer(http_port=port("PEER_SPARE_PORT"), grpc_port=port(), workers=1, enable_latency_logging=False)
    # A line a call otherwise.
    logging.getLogger("kserve").setLevel(logging.WARNING)
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)
    server.start([Volatility()])
