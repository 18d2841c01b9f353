"""A session of KServe's inference clients, over gRPC and REST: python kserve_session.py SESSION.json"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2
from session import Session

# KServe's server numbers these otherwise than Triton does. Neither of its clients sends them.
OTHERWISE = [
    f"inference.RepositoryModel{verb}{what}" for verb in ("Load", "Unload") for what in ("Request", "Response")
]


def request(session: Session, *, raw: bool, rows: Any = None, model: str = "") -> InferRequest:
    rows = session.rows if rows is None else rows
    tensor = InferInput("features", list(rows.shape), "FP64")
    if raw:
        tensor.set_data_from_numpy(rows, binary_data=True)
    else:
        tensor.data = rows.reshape(-1).tolist()
    return InferRequest(model or session.model, [tensor], request_id="7")


def probabilities(answer: Any) -> Any:
    (output,) = answer.outputs
    assert output.name == "probability", output.name
    return output.as_numpy()


async def grpc_session(session: Session) -> None:
    async with InferenceGRPCClient(session.grpc) as client:
        session.true("grpc: live", await client.is_server_live())
        session.true("grpc: ready", await client.is_server_ready())
        session.true("grpc: the model is ready", await client.is_model_ready(session.model))
        session.true("grpc: an unknown model is not", not await client.is_model_ready("moon"))
        for form, raw in (("raw", True), ("typed", False)):
            answer = await client.infer(request(session, raw=raw))
            session.check(f"grpc: infer, {form}", probabilities(answer))
            session.true(f"grpc: version and id, {form}", (answer.model_version, answer.id) == (session.stable, "7"))
            threshold = answer.parameters["threshold"].string_param
            session.true(f"grpc: the threshold, {form}", threshold == "0.25")
        answers = await asyncio.gather(*(client.infer(request(session, raw=True)) for _ in range(8)))
        for answer in answers:
            session.check("grpc: eight at once", probabilities(answer))
        with session.refused("grpc: an unknown model", grpc.RpcError, "NOT_FOUND", "no model 'moon'"):
            await client.infer(request(session, raw=True, model="moon"))
        for form, raw in (("raw", True), ("typed", False)):
            with session.refused(f"grpc: a wrong shape, {form}", grpc.RpcError, "INVALID_ARGUMENT", "inputs[0].shape"):
                await client.infer(request(session, raw=raw, rows=session.rows[:, :10]))
        with session.refused("grpc: NaN", grpc.RpcError, "INVALID_ARGUMENT", "got nan"):
            await client.infer(request(session, raw=True, rows=session.rows * np.nan))


def quantile_shape(answer: Any) -> tuple[int, ...]:
    by_name = {output.name: output for output in answer.outputs}
    assert set(by_name) == {"probability", "median_bps", "quantile_bps"}, by_name
    shape: tuple[int, ...] = by_name["quantile_bps"].as_numpy().shape
    return shape


async def forecast_session(session: Session) -> None:
    """A spike size and quantiles, from a model that forecasts a distribution."""
    asked = request(session, raw=True)
    asked.parameters = {"spike_bps": "4.0", "quantiles": "0.1,0.9"}
    shape = (len(session.rows), 2)
    async with InferenceGRPCClient(session.forecast_grpc) as over_grpc:
        answer = await over_grpc.infer(asked)
        session.true("grpc: quantiles", quantile_shape(answer) == shape)
        session.true("grpc: the spike size", answer.parameters["spike_bps"].string_param == "4.0")
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as over_rest:
        answer = await over_rest.infer(f"http://{session.forecast_http}", asked, model_name=session.model)
        session.true("rest: quantiles", quantile_shape(answer) == shape)
        session.true("rest: the spike size", answer.parameters["spike_bps"] == 4.0)


async def rest_session(session: Session) -> None:
    base = f"http://{session.http}"
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        session.true("rest: live", await client.is_server_live(base))
        session.true("rest: ready", await client.is_server_ready(base))
        session.true("rest: the model is ready", await client.is_model_ready(base, session.model))
        for form, raw in (("binary", True), ("JSON", False)):
            answer = await client.infer(base, request(session, raw=raw), model_name=session.model)
            session.check(f"rest: infer, {form}", probabilities(answer))
            about = (answer.model_name, answer.id, answer.parameters)
            session.true(f"rest: name, id and threshold, {form}", about == (session.model, "7", {"threshold": 0.25}))
        rows = {"name": "features", "shape": list(session.rows.shape), "datatype": "FP64"}
        plain = {"inputs": [{**rows, "data": session.rows.tolist()}]}
        answer = await client.infer(base, plain, model_name=session.model)
        session.check("rest: infer, a plain dict", probabilities(answer))
        session.true("rest: an unknown model is not", not await client.is_model_ready(base, "moon"))
        with session.refused("rest: an unknown model", httpx.HTTPStatusError, "404", "no model 'moon'"):
            await client.infer(base, request(session, raw=True), model_name="moon")
        for form, raw in (("binary", True), ("JSON", False)):
            wrong = request(session, raw=raw, rows=session.rows[:, :10])
            with session.refused(f"rest: a wrong shape, {form}", httpx.HTTPStatusError, "400", "inputs[0].shape"):
                await client.infer(base, wrong, model_name=session.model)


def main() -> None:
    logging.disable(logging.ERROR)  # its own words on the refusals that are asked for
    session = Session(sys.argv[1])
    session.same_contract(grpc_predict_v2_pb2.DESCRIPTOR, OTHERWISE)
    asyncio.run(grpc_session(session))
    asyncio.run(rest_session(session))
    asyncio.run(forecast_session(session))
    session.end()


if __name__ == "__main__":
    main()
