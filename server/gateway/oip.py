"""The Open Inference Protocol under /v2: what KServe's and Triton's HTTP clients ask.

Every answer but liveness is the inference server's. The protocol's own form of an error is {"error": text}.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from common.errors import OverloadedError, RequestError, UnavailableError, UnsupportedError, VolcastError
from server.gateway.middleware import HTTP_CODES, LEAVING
from server.oip import NOT_UNLOADED, rest
from volcast.oip.v2 import (
    ModelMetadataRequest,
    ModelReadyRequest,
    RepositoryIndexRequest,
    RepositoryModelLoadRequest,
    ServerMetadataRequest,
    ServerReadyRequest,
)

MAX_BODY_BYTES = 4 * 1024 * 1024  # 4,096 rows of 11 features as JSON of 90 bytes a value
# The protocol says 400 where the rest of the gateway says 422.
_CODES: tuple[tuple[type[VolcastError], int], ...] = ((UnsupportedError, 501), *HTTP_CODES)
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is wrong; the field is named."},
    404: {"description": "No such model or version."},
    503: {"description": "Not ready, or the inference server is away."},
}
# Window bits of zlib: a gzip header; a zlib header, which is what HTTP means by deflate.
_ENCODINGS = {"gzip": 31, "deflate": 15}
_FIELDS = {"model.name": "model_name", "model.version": "model_version"}


class _Route(APIRoute):
    """Errors in the protocol's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except VolcastError as error:
                return _refusal(error)

        return answer


def router() -> APIRouter:
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], route_class=_Route)
    router.add_api_route("", _server_metadata, summary="Name, build and extensions of the server")
    router.add_api_route("/health/live", _live, summary="Whether the gateway answers")
    router.add_api_route("/health/ready", _ready, summary="Whether the server is ready", responses=_ERRORS)
    for path, shown in (("/models/{name}", True), ("/models/{name}/versions/{version}", False)):
        about: dict[str, Any] = {"include_in_schema": shown, "responses": _ERRORS}
        router.add_api_route(path, _model_metadata, summary="Versions and tensors of a model", **about)
        router.add_api_route(f"{path}/ready", _model_ready, summary="Whether a model is ready", **about)
        router.add_api_route(f"{path}/infer", _infer, methods=["POST"], summary="Score rows of features", **about)
    router.add_api_route("/repository/index", _index, methods=["POST"], summary="Every version there is")
    router.add_api_route("/repository/models/{name}/load", _load, methods=["POST"], summary="Read the models folder")
    router.add_api_route("/repository/models/{name}/unload", _unload, methods=["POST"], include_in_schema=False)
    return router


async def _server_metadata(request: Request) -> JSONResponse:
    """The inference server's."""
    answer = await _ask(request, "ServerMetadata", ServerMetadataRequest())
    return JSONResponse({"name": answer.name, "version": answer.version, "extensions": list(answer.extensions)})


async def _live() -> JSONResponse:
    """Of the gateway itself: one that waits for its server needs no restart."""
    return JSONResponse({"live": True})


async def _ready(request: Request) -> JSONResponse:
    """Whether the inference server takes predictions (200) or not (503)."""
    if request.app.state.leaving:
        return JSONResponse({"ready": False, "error": LEAVING}, 503)
    try:
        ready = (await _ask(request, "ServerReady", ServerReadyRequest())).ready
    except UnavailableError as error:
        return JSONResponse({"ready": False, "error": str(error)}, 503)
    return _readiness({}, ready, "the server is not ready")


async def _model_metadata(request: Request, name: str) -> JSONResponse:
    """A model's versions, inputs and outputs; with /versions/VERSION in the path, of that version."""
    answer = await _ask(request, "ModelMetadata", ModelMetadataRequest(name=name, version=_version(request)))
    return JSONResponse(
        {
            "name": answer.name,
            "versions": list(answer.versions),
            "platform": answer.platform,
            "inputs": [_tensor(one) for one in answer.inputs],
            "outputs": [_tensor(one) for one in answer.outputs],
        }
    )


async def _model_ready(request: Request, name: str) -> JSONResponse:
    """Whether a model takes predictions (200), does not yet (503), or is not there (404)."""
    answer = await _ask(request, "ModelReady", ModelReadyRequest(name=name, version=_version(request)))
    if not answer.ready:
        # Raises for one that is not there.
        await _ask(request, "ModelMetadata", ModelMetadataRequest(name=name, version=_version(request)))
    return _readiness({"name": name}, answer.ready, "the model is not ready")


async def _infer(request: Request, name: str) -> Response:
    """Rows as tensor `features`, FP64 or FP32, shape [rows, features]: values in JSON, or behind it as bytes."""
    body = await _body(request)
    message, asked = rest.read_request(body, request.headers.get(rest.HEADER_LENGTH), name, _version(request))
    content, json_length = rest.write_response(await _ask(request, "ModelInfer", message), asked)
    if json_length is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={rest.HEADER_LENGTH: str(json_length)}, media_type="application/octet-stream")


async def _index(request: Request) -> JSONResponse:
    """Every version in the models folder, with its state; `{"ready": true}` leaves out what is not ready."""
    ready = _json(await _body(request)).get("ready")
    if ready is None:
        ready = False
    if not isinstance(ready, bool):
        raise RequestError.of("ready", f"expected true or false, got {str(ready)[:40]!a}")
    answer = await _ask(request, "RepositoryIndex", RepositoryIndexRequest(ready=ready))
    return JSONResponse(
        [{"name": one.name, "version": one.version, "state": one.state, "reason": one.reason} for one in answer.models]
    )


async def _load(request: Request, name: str) -> JSONResponse:
    """Asks the server to read its models folder again; the index tells what became of it."""
    message = RepositoryModelLoadRequest(model_name=name)
    for key in _json(await _body(request)).get("parameters") or ():
        message.parameters[key].SetInParent()  # whatever its value: the server takes none
    await _ask(request, "RepositoryModelLoad", message)
    return JSONResponse({})


async def _unload(name: str) -> JSONResponse:
    raise UnsupportedError(NOT_UNLOADED)


async def _ask(request: Request, method: str, message: Any) -> Any:
    return await request.app.state.backend.inference_protocol(method, message)


def _version(request: Request) -> str:
    version: str = request.path_params.get("version", "")
    return version


def _tensor(one: Any) -> dict[str, Any]:
    return {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}


def _readiness(about: dict[str, Any], ready: bool, otherwise: str) -> JSONResponse:
    return JSONResponse(
        {**about, "ready": True} if ready else {**about, "ready": False, "error": otherwise}, 200 if ready else 503
    )


def _refusal(error: VolcastError) -> JSONResponse:
    code = next((code for kind, code in _CODES if isinstance(error, kind)), 500)
    text = "internal error" if code == 500 else str(error)
    if isinstance(error, RequestError):
        text = "; ".join(f"{_FIELDS.get(one.field, one.field)}: {one.description}" for one in error.violations)
    headers = {"Retry-After": "1"} if code == 503 else {}
    if isinstance(error, OverloadedError):
        headers = {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return JSONResponse({"error": text}, 400 if code == 422 else code, headers)


async def _body(request: Request) -> bytes:
    """The body, unpacked where it is compressed; neither form may pass the limit."""
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding not in (*_ENCODINGS, "identity"):
        raise HTTPException(415, "Content-Encoding: expected gzip or deflate")
    unpack = zlib.decompressobj(_ENCODINGS[encoding]) if encoding in _ENCODINGS else None
    chunks, size = [], 0
    async for chunk in request.stream():
        try:
            plain = unpack.decompress(chunk, MAX_BODY_BYTES + 1 - size) if unpack else chunk
        except zlib.error:
            raise HTTPException(400, f"the body is no {encoding}") from None
        size += len(plain)
        if size > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        chunks.append(plain)
    if unpack and not unpack.eof:
        raise HTTPException(400, f"the body ends before its {encoding} does")
    return b"".join(chunks)


def _json(body: bytes) -> dict[str, Any]:
    """An object, which may be left out or null."""
    try:
        return (msgspec.json.decode(body, type=dict[str, Any] | None) if body.strip() else None) or {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError.of("body", str(error)) from None
