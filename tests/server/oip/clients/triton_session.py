"""A session of tritonclient, over gRPC and HTTP: python triton.py SESSION.json"""

from __future__ import annotations

import asyncio
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from session import Session
from tritonclient.utils import InferenceServerException

NAMES = ("features", "probability")


def tensor(module: Any, rows: Any, datatype: str = "FP64", **how: Any) -> Any:
    rows = rows.astype({"FP64": np.float64, "FP32": np.float32}[datatype])
    infer_input = module.InferInput("features", list(rows.shape), datatype)
    infer_input.set_data_from_numpy(rows, **how)
    return infer_input


def common(session: Session, client: Any, module: Any, protocol: str) -> None:
    """What both clients have, by the same names."""
    model = session.model
    session.true(f"{protocol}: live and ready", client.is_server_live() and client.is_server_ready())
    session.true(f"{protocol}: the model is ready", client.is_model_ready(model))
    session.true(f"{protocol}: a version is ready", client.is_model_ready(model, session.other))
    session.true(f"{protocol}: an unknown model is not", client.is_model_ready("moon") is False)
    as_json = {"as_json": True} if protocol == "grpc" else {}
    about = client.get_server_metadata(**as_json)
    session.true(
        f"{protocol}: server metadata", about["name"] == "volcast" and "model_repository" in about["extensions"]
    )
    about = client.get_model_metadata(model, **as_json)
    (taken,), (given,) = about["inputs"], about["outputs"]
    shape = [int(size) for size in taken["shape"]]
    session.true(
        f"{protocol}: model metadata",
        (taken["name"], given["name"]) == NAMES and shape == [-1, session.rows.shape[1]],
    )
    index = client.get_model_repository_index(**as_json)
    index = index["models"] if protocol == "grpc" else index
    session.true(f"{protocol}: the index has the model", {entry["name"] for entry in index} >= {model})

    result = client.infer(model, [tensor(module, session.rows)], request_id="7")
    session.check(f"{protocol}: infer", result.as_numpy("probability"))
    outputs = [module.InferRequestedOutput("probability")]
    result = client.infer(model, [tensor(module, session.rows)], model_version=session.other, outputs=outputs)
    session.check(f"{protocol}: infer, a version and an output by name", result.as_numpy("probability"), session.other)
    result = client.infer(model, [tensor(module, session.rows)], parameters={"routing_key": "BTC-USD"})
    session.check(f"{protocol}: infer with a routing key", result.as_numpy("probability"))
    result = client.infer(model, [tensor(module, session.rows, "FP32")])
    session.true(f"{protocol}: infer in float32", result.as_numpy("probability").shape == (len(session.rows),))

    with session.refused(f"{protocol}: an unknown model", InferenceServerException, "no model 'moon'"):
        client.infer("moon", [tensor(module, session.rows)])
    with session.refused(f"{protocol}: an unknown version", InferenceServerException, "no version '777'"):
        client.infer(model, [tensor(module, session.rows)], model_version="777")
    with session.refused(f"{protocol}: a wrong shape", InferenceServerException, "inputs[0].shape", "[rows, 11]"):
        client.infer(model, [tensor(module, session.rows[:, :10])])
    with session.refused(f"{protocol}: an unknown output", InferenceServerException, "no output 'label'"):
        client.infer(model, [tensor(module, session.rows)], outputs=[module.InferRequestedOutput("label")])
    nothing = session.rows * np.nan
    with session.refused(f"{protocol}: NaN", InferenceServerException, "expected a finite number, got nan"):
        client.infer(model, [tensor(module, nothing)])
    with session.refused(f"{protocol}: unloading", InferenceServerException, "not unloaded on request"):
        client.unload_model(model)


def forecasts(session: Session, client: Any, module: Any, protocol: str) -> None:
    """A spike size and quantiles, from a model that forecasts a distribution."""
    as_json = {"as_json": True} if protocol == "grpc" else {}
    about = client.get_model_metadata(session.model, **as_json)
    outputs = [output["name"] for output in about["outputs"]]
    session.true(f"{protocol}: outputs of a forecast", outputs == ["probability", "median_bps", "quantile_bps"])
    parameters = {"spike_bps": 4.0 if protocol == "http" else "4.0", "quantiles": "0.1,0.9"}
    result = client.infer(session.model, [tensor(module, session.rows)], parameters=parameters)
    quantiles = result.as_numpy("quantile_bps")
    session.true(f"{protocol}: quantiles", quantiles.shape == (len(session.rows), 2) and quantiles.min() > 0)
    session.true(f"{protocol}: median", result.as_numpy("median_bps").shape == (len(session.rows),))
    asked = [module.InferRequestedOutput("median_bps")]
    result = client.infer(session.model, [tensor(module, session.rows)], outputs=asked)
    session.true(f"{protocol}: only the requested output", result.as_numpy("probability") is None)
    with session.refused(f"{protocol}: a wrong spike size", InferenceServerException, "parameters[spike_bps]"):
        client.infer(session.model, [tensor(module, session.rows)], parameters={"spike_bps": "x"})


def grpc_session(session: Session) -> None:
    with over_grpc.InferenceServerClient(session.forecast_grpc) as client:
        forecasts(session, client, over_grpc, "grpc")
    with over_grpc.InferenceServerClient(session.grpc) as client:
        common(session, client, over_grpc, "grpc")
        session.true("grpc: the id comes back", client.infer(session.model, [tensor(over_grpc, session.rows)],
                     request_id="7").get_response().id == "7")  # fmt: skip

        answers: queue.Queue[Any] = queue.Queue()
        for _ in range(8):
            client.async_infer(
                session.model, [tensor(over_grpc, session.rows)], lambda result, error: answers.put((result, error))
            )
        for _ in range(8):
            result, error = answers.get(timeout=20)
            assert error is None, error
            session.check("grpc: async", result.as_numpy("probability"))

        client.start_stream(lambda result, error: answers.put((result, error)))
        for index in range(5):
            rows = session.rows[:, :10] if index == 2 else session.rows
            client.async_stream_infer(session.model, [tensor(over_grpc, rows)], request_id=str(index))
        for index in range(5):
            result, error = answers.get(timeout=20)
            if index == 2:
                session.true("grpc: a bad request is answered in the stream", "inputs[0].shape" in str(error))
            else:
                assert error is None, error
                assert result.get_response().id == str(index)
                session.check("grpc: stream", result.as_numpy("probability"))
        client.stop_stream()


def http_session(session: Session) -> None:
    with over_http.InferenceServerClient(session.forecast_http) as client:
        forecasts(session, client, over_http, "http")
    with over_http.InferenceServerClient(session.http, concurrency=4) as client:
        common(session, client, over_http, "http")
        model = session.model
        for binary_in in (True, False):
            for binary_out in (True, False):
                outputs = [over_http.InferRequestedOutput("probability", binary_data=binary_out)]
                rows = tensor(over_http, session.rows, binary_data=binary_in)
                result = client.infer(model, [rows], outputs=outputs)
                forms = f"{'binary' if binary_in else 'JSON'} in, {'binary' if binary_out else 'JSON'} out"
                session.check(f"http: {forms}", result.as_numpy("probability"))
        for packed in ("gzip", "deflate"):
            result = client.infer(
                model, [tensor(over_http, session.rows)], request_compression_algorithm=packed,
                response_compression_algorithm=packed,
            )  # fmt: skip
            session.check(f"http: {packed}", result.as_numpy("probability"))
        pending = [client.async_infer(model, [tensor(over_http, session.rows)]) for _ in range(4)]
        for call in pending:
            session.check("http: async", call.get_result().as_numpy("probability"))


async def asyncio_session(session: Session) -> None:
    async with over_grpc_aio.InferenceServerClient(session.grpc) as client:
        session.true("grpc asyncio: ready", await client.is_server_ready())
        result = await client.infer(session.model, [tensor(over_grpc, session.rows)])
        session.check("grpc asyncio: infer", result.as_numpy("probability"))

        async def requests() -> Any:
            for index in range(3):
                yield {
                    "model_name": session.model,
                    "inputs": [tensor(over_grpc, session.rows)],
                    "request_id": str(index),
                }

        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            session.check("grpc asyncio: stream", result.as_numpy("probability"))
    async with over_http_aio.InferenceServerClient(session.http) as client:
        session.true("http asyncio: ready", await client.is_server_ready())
        result = await client.infer(session.model, [tensor(over_http, session.rows)])
        session.check("http asyncio: infer", result.as_numpy("probability"))


def main() -> None:
    session = Session(sys.argv[1])
    session.same_contract(over_grpc.service_pb2.DESCRIPTOR)
    grpc_session(session)
    http_session(session)
    asyncio.run(asyncio_session(session))
    session.end()


if __name__ == "__main__":
    main()
