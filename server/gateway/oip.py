"""The Open Inference Protocol under /v2: the requests of KServe's and Triton's HTTP clients.

The gateway forwards every request to the inference server, except /health/live. Errors have the form of the
protocol: {"error": text}.
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
# Here a wrong request is a 400, as the protocol requires; other routes of the gateway use 422.
_CODES: tuple[tuple[type[VolcastError], int], ...] = ((UnsupportedError, 501), *HTTP_CODES)
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is wrong; the field is named."},
    404: {"description": "No such model or version."},
    503: {"description": "Not ready, or the inference server is unreachable."},
}
# zlib's window bits: 31 expects a gzip header, 15 a zlib header. HTTP's "deflate" has a zlib header.
_ENCODINGS = {"gzip": 31, "deflate": 15}
_FIELDS = {"model.name": "model_name", "model.version": "model_version"}


class _Route(APIRoute):
    """A route whose errors have the form of the protocol."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def respond(request: Request) -> Response:
            try:
                return await handler(request)
            except VolcastError as error:
                return _error_response(error)

        return respond


def router() -> APIRouter:
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], route_class=_Route)
    router.add_api_route("", _server_metadata, summary="Name, build and extensions of the server")
    router.add_api_route("/health/live", _live, summary="Whether the gateway responds")
    router.add_api_route("/health/ready", _ready, summary="Whether the server is ready", responses=_ERRORS)
    for path, in_schema in (("/models/{name}", True), ("/models/{name}/versions/{version}", False)):
        options: dict[str, Any] = {"include_in_schema": in_schema, "responses": _ERRORS}
        router.add_api_route(path, _model_metadata, summary="Versions and tensors of a model", **options)
        router.add_api_route(f"{path}/ready", _model_ready, summary="Whether a model is ready", **options)
        router.add_api_route(f"{path}/infer", _infer, methods=["POST"], summary="Score rows of features", **options)
    router.add_api_route("/repository/index", _index, methods=["POST"], summary="All versions of all models")
    router.add_api_route("/repository/models/{name}/load", _load, methods=["POST"], summary="Read the models folder")
    router.add_api_route("/repository/models/{name}/unload", _unload, methods=["POST"], include_in_schema=False)
    return router


async def _server_metadata(request: Request) -> JSONResponse:
    """Name, version and extensions of the inference server."""
    metadata = await _call(request, "ServerMetadata", ServerMetadataRequest())
    return JSONResponse({"name": metadata.name, "version": metadata.version, "extensions": list(metadata.extensions)})


async def _live() -> JSONResponse:
    """Liveness of the gateway itself. A gateway that waits for the inference server needs no restart."""
    return JSONResponse({"live": True})


async def _ready(request: Request) -> JSONResponse:
    """Whether the inference server accepts predictions (200) or not (503)."""
    if request.app.state.leaving:
        return JSONResponse({"ready": False, "error": LEAVING}, 503)
    try:
        ready = (await _call(request, "ServerReady", ServerReadyRequest())).ready
    except UnavailableError as error:
        return JSONResponse({"ready": False, "error": str(error)}, 503)
    return _readiness({}, ready, "the server is not ready")


async def _model_metadata(request: Request, name: str) -> JSONResponse:
    """Versions, inputs and outputs of a model. The path may select a version: /versions/VERSION."""
    metadata = await _call(request, "ModelMetadata", ModelMetadataRequest(name=name, version=_version(request)))
    fields = {
        "name": metadata.name,
        "versions": list(metadata.versions),
        "platform": metadata.platform,
        "inputs": [_tensor(tensor) for tensor in metadata.inputs],
        "outputs": [_tensor(tensor) for tensor in metadata.outputs],
    }
    if metadata.properties:
        fields["properties"] = dict(metadata.properties)
    return JSONResponse(fields)


async def _model_ready(request: Request, name: str) -> JSONResponse:
    """Whether a model accepts predictions (200), is not ready yet (503), or does not exist (404)."""
    ready = (await _call(request, "ModelReady", ModelReadyRequest(name=name, version=_version(request)))).ready
    if not ready:
        # Raises ModelNotFoundError if the model does not exist.
        await _call(request, "ModelMetadata", ModelMetadataRequest(name=name, version=_version(request)))
    return _readiness({"name": name}, ready, "the model is not ready")


async def _infer(request: Request, name: str) -> Response:
    """Scores rows: tensor `features`, FP64 or FP32, shape [rows, features], in JSON or as bytes after the JSON."""
    body = await _body(request)
    message, encoding = rest.read_request(body, request.headers.get(rest.HEADER_LENGTH), name, _version(request))
    content, json_length = rest.write_response(await _call(request, "ModelInfer", message), encoding)
    if json_length is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={rest.HEADER_LENGTH: str(json_length)}, media_type="application/octet-stream")


async def _index(request: Request) -> JSONResponse:
    """All versions in the models folder with their states. `{"ready": true}` selects the versions that are ready."""
    ready = _json(await _body(request)).get("ready")
    if ready is None:
        ready = False
    if not isinstance(ready, bool):
        raise RequestError.of("ready", f"expected true or false, got {str(ready)[:40]!r}")
    index = await _call(request, "RepositoryIndex", RepositoryIndexRequest(ready=ready))
    return JSONResponse(
        [
            {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}
            for entry in index.models
        ]
    )


async def _load(request: Request, name: str) -> JSONResponse:
    """Makes the server read its models folder again. The index shows the result."""
    message = RepositoryModelLoadRequest(model_name=name)
    for key in _json(await _body(request)).get("parameters") or ():
        message.parameters[key].SetInParent()  # without its value: the server refuses every parameter
    await _call(request, "RepositoryModelLoad", message)
    return JSONResponse({})


async def _unload(name: str) -> JSONResponse:
    raise UnsupportedError(NOT_UNLOADED)


async def _call(request: Request, method: str, message: Any) -> Any:
    return await request.app.state.backend.inference_protocol(method, message)


def _version(request: Request) -> str:
    version: str = request.path_params.get("version", "")
    return version


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _readiness(fields: dict[str, Any], ready: bool, reason: str) -> JSONResponse:
    """reason: the error text if not ready."""
    if ready:
        return JSONResponse({**fields, "ready": True}, 200)
    return JSONResponse({**fields, "ready": False, "error": reason}, 503)


def _error_response(error: VolcastError) -> JSONResponse:
    code = next((code for kind, code in _CODES if isinstance(error, kind)), 500)
    text = "internal error" if code == 500 else str(error)
    if isinstance(error, RequestError):
        text = "; ".join(
            f"{_FIELDS.get(violation.field, violation.field)}: {violation.description}"
            for violation in error.violations
        )
    headers = {"Retry-After": "1"} if code == 503 else {}
    if isinstance(error, OverloadedError):
        headers = {"Retry-After": str(max(1, round(error.retry_after_s)))}
    return JSONResponse({"error": text}, 400 if code == 422 else code, headers)


async def _body(request: Request) -> bytes:
    """Returns the body, decompressed if necessary. Its decompressed size is limited to MAX_BODY_BYTES."""
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
    """Parses a JSON object; an empty body or null is an empty object."""
    try:
        return (msgspec.json.decode(body, type=dict[str, Any] | None) if body.strip() else None) or {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError.of("body", str(error)) from None
