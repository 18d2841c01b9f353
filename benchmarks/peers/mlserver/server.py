# mypy: ignore-errors
"""MLServer with a custom runtime, as its documentation has it, in one process."""

from __future__ import annotations

import asyncio

import uvloop
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from scoring import HOST, Scorer, port


class Volatility(MLModel):
    async def load(self) -> bool:
        self._score = Scorer()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("probability", self._score(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])


async def serve() -> None:
    settings = Settings(
        debug=False,
        host=HOST,
        http_port=port(),
        grpc_port=port("PEER_SPARE_PORT"),
        parallel_workers=0,
        metrics_endpoint=None,
        gzip_enabled=False,
    )
    await MLServer(settings).start([ModelSettings(name="volatility", implementation=Volatility)])


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(serve())
