"""The routes of the gateway. `/docs` is Swagger UI from local files, so the page works without Internet access."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from google.protobuf.json_format import MessageToDict
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route

from common.access import Access
from common.errors import VolcastError
from common.schema import CORE_1, CORE_1_EXAMPLE
from server.gateway import oip
from server.gateway.auth_middleware import AuthMiddleware, admitted
from server.gateway.backend import PLAINTEXT, Backend
from server.gateway.middleware import (
    LEAVING,
    MAX_BODY_BYTES,
    GatewayMetrics,
    RequestMiddleware,
    TooLargeError,
    error_response,
    limited_body,
    response_for,
)
from server.gateway.openapi import described
from server.gateway.schemas import (
    ErrorBody,
    PredictAnswer,
    PredictBody,
    one_line,
    predict_answer,
    predict_request,
    read_body,
    violations_of,
)
from server.security.tokens import Gate, Tokens

BUILD = version("volcast")
DESCRIPTION = f"""How likely is a volatility spike in the next 60 seconds?

`POST /predict` takes the {len(CORE_1)} features of schema `{CORE_1.name}` as flat JSON and answers with a probability.
A model with other features takes them as `{{"model": "NAME", "features": {{"spread": 0.01}}}}`. If the model forecasts
a distribution, the caller chooses the spike size (`spike_bps` or `spike_multiple`) and `quantiles`.
The gateway asks an inference server over gRPC; for many rows or low latency call that server directly
(`volcast.v1.InferenceService`)."""

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The body is no JSON."},
    401: {"model": ErrorBody, "description": "A bearer token is needed; only where tokens are set up."},
    404: {"model": ErrorBody, "description": "No such model or version."},
    413: {"model": ErrorBody, "description": f"The body is larger than {MAX_BODY_BYTES} bytes."},
    422: {"model": ErrorBody, "description": "A field is missing, unknown or wrong; each is named."},
    429: {"model": ErrorBody, "description": "Too much work is waiting; see Retry-After."},
    503: {
        "model": ErrorBody,
        "description": "The inference server is unreachable, starting or draining; see Retry-After.",
    },
    504: {"model": ErrorBody, "description": "The inference server did not answer in time."},
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": PredictBody.model_json_schema(), "example": CORE_1_EXAMPLE}},
    }
}


def create_app(
    server: str, timeout_s: float, log: Any, access: Access = PLAINTEXT, tokens: Tokens | None = None
) -> FastAPI:
    """Builds the ASGI application.

    server: address of the inference server. timeout_s: limit of each call to that server. access: credentials for
    that server. tokens: tokens of the callers; None: callers need no token.
    """
    metrics = GatewayMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.backend = Backend(server, timeout_s, log, access)
        yield
        await app.state.backend.close()

    app = FastAPIOffline(
        title="Volcast",
        version=BUILD,
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        static_url="/docs-assets",
        # By default, Swagger UI sends the page's address to a validator on the Internet.
        swagger_ui_parameters={"validatorUrl": None, "tryItOutEnabled": True, "displayRequestDuration": True},
    )
    app.router.routes.insert(0, Route("/openapi.json", _openapi, include_in_schema=False))
    app.state.leaving = False  # set: readiness is 503, and connections close after their next response
    app.add_middleware(AuthMiddleware, gate=Gate(tokens, open_prefixes=()))
    app.add_middleware(RequestMiddleware, metrics=metrics, log=log)
    app.add_exception_handler(VolcastError, _on_volcast_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(TooLargeError, _on_too_large)
    _add_predict(app)
    _add_operations(app, metrics)
    app.include_router(oip.router())
    return app


async def _openapi(request: Request) -> JSONResponse:
    """The description of the API, with the features and the example of the model that is served now."""
    document = request.app.openapi()
    if admitted(request):
        with suppress(VolcastError):  # without a server the description is general
            document = described(document, await request.app.state.backend.health())
    return JSONResponse(document)


async def _on_volcast_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, VolcastError)
    return response_for(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, f"{request.method} {request.url.path[:100]}: {error.detail}")


async def _on_too_large(request: Request, error: Exception) -> Response:
    return error_response(413, f"the body is larger than {MAX_BODY_BYTES} bytes")


def _add_predict(app: FastAPI) -> None:
    @app.post(
        "/predict",
        tags=["prediction"],
        summary="Score one row of features",
        response_model=PredictAnswer,
        response_model_exclude_none=True,
        responses=_ERRORS,
        openapi_extra=_BODY,
    )
    async def predict(
        request: Request,
        model: Annotated[str, Query(description="Model name, where the body has none.")] = "",
        version: Annotated[str, Query(description="Model version, where the body has none.")] = "",
    ) -> PredictAnswer | JSONResponse:
        """Scores one row of features.

        Any content type is read as JSON, so that a bare `curl -d` works.
        """
        try:
            body = read_body(await limited_body(request))
        except ValidationError as error:
            return _refuse_body(error)
        backend: Backend = request.app.state.backend
        message = predict_request(body, model, version)
        return predict_answer(message, await backend.predict(message))


def _refuse_body(error: ValidationError) -> JSONResponse:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return error_response(400, f"the body is no JSON: {first['ctx']['error']}")
    violations = violations_of(error)
    return error_response(422, one_line(violations), violations)


def _add_operations(app: FastAPI, metrics: GatewayMetrics) -> None:
    @app.get(
        "/health",
        tags=["operations"],
        summary="What is served, and whether it is ready",
        responses={503: {"description": "Not ready, or the server is unreachable."}},
    )
    async def health(request: Request) -> JSONResponse:
        """The models of the inference server, and whether the server is ready (200) or not (503)."""
        if request.app.state.leaving:
            return JSONResponse({"ready": False, "error": LEAVING}, 503)
        try:
            response = await request.app.state.backend.health()
        except VolcastError as error:
            return JSONResponse({"ready": False, "error": str(error)}, 503)
        if not admitted(request):
            return JSONResponse({"ready": response.ready}, 200 if response.ready else 503)
        fields = MessageToDict(response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        return JSONResponse(fields, 200 if response.ready else 503)

    @app.get("/version", tags=["operations"], summary="Builds, contract and schema")
    async def version(request: Request) -> JSONResponse:
        """The builds of gateway and server, the contract, and the feature schema of `/predict`."""
        try:
            server = (await request.app.state.backend.health()).build
        except VolcastError:
            server = None
        schema = {"name": CORE_1.name, "hash": CORE_1.hash}
        return JSONResponse({"gateway": BUILD, "server": server, "contract": "volcast.v1", "schema": schema})

    @app.get("/metrics", tags=["operations"], summary="Metrics of the gateway", response_class=Response)
    async def prometheus() -> Response:
        """The gateway's own metrics, in Prometheus' text format."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")
