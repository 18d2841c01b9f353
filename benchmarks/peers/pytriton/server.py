# mypy: ignore-errors
"""PyTriton: Triton's C++ front with its dynamic batcher, the model in a Python callable beside it."""

from __future__ import annotations

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from scoring import FEATURES, HOST, Scorer, port

score = Scorer()


@batch
def infer(features):
    return {"probability": score(features).reshape(-1, 1)}


if __name__ == "__main__":
    config = TritonConfig(
        grpc_address=HOST,
        grpc_port=port(),
        http_address=HOST,
        http_port=port("PEER_SPARE_PORT"),
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="volatility",
            infer_func=infer,
            inputs=[Tensor(name="features", dtype=np.float64, shape=(FEATURES,))],
            outputs=[Tensor(name="probability", dtype=np.float64, shape=(1,))],
            config=ModelConfig(
                max_batch_size=256,
                batcher=DynamicBatcher(max_queue_delay_microseconds=0),
            ),
        )
        triton.serve()
