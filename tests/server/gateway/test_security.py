"""Which requests the REST API admits, and what a refused caller sees."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from starlette.routing import Route

from common.access import make_access
from common.schema import CORE_1_EXAMPLE
from server.gateway.app import create_app
from server.gateway.auth_middleware import OPEN_PATHS
from server.security.tokens import REFUSAL_TEXT, Tokens
from tests.processes import await_true
from tests.server.processes import run_to_end, running
from tests.server.security.authority import Authority, Files
from tests.server.security.conftest import Log
from volcast.v1 import FeatureSpec, HealthResponse, ModelStatus, PredictResponse

BEARING = {"Authorization": "Bearer opensesame"}
SECRET = "secret-of-the-inside"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(hashlib.sha256(b"opensesame").hexdigest() + " caller\n")
    return file


class Server(grpc.GenericRpcHandler):
    """An inference server that wants a token of its own, or fails in ways of its own."""

    def __init__(self, code: grpc.StatusCode | None = None) -> None:
        self._code = code
        self.shown: list[Any] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        asks_health = handler_call_details.method.endswith("/Health")
        metadata: Any = handler_call_details.invocation_metadata
        self.shown.append(dict(metadata).get("authorization"))

        async def answer(request: bytes, context: Any) -> bytes:
            if self._code is not None:
                await context.abort(self._code, SECRET)
            if asks_health:
                features = [FeatureSpec(name="price", low=1.5, high=2.5, used=True)]
                model = ModelStatus(name="volatility", version="7", labels=["stable"], ready=True, features=features)
                health = HealthResponse(ready=True, default_model="volatility", models=[model])
                return health.SerializeToString()
            return PredictResponse(probabilities=[0.5], model_name="volatility").SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def gateway(behind: Server, tokens: Path | None, token: str = "") -> AsyncIterator[httpx.AsyncClient]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((behind,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    log = Log()
    known = None if tokens is None else Tokens(tokens, log)
    app = create_app(f"127.0.0.1:{port}", 10.0, log, make_access(token), known)
    transport = httpx.ASGITransport(app)
    try:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://gateway") as client,
        ):
            yield client
    finally:
        await server.stop(None)


async def test_a_caller_with_a_token_is_answered_and_the_gateway_shows_its_own(tokens: Path) -> None:
    behind = Server()
    async with gateway(behind, tokens, token="gateways") as client:
        answer = await client.post("/predict", json=CORE_1_EXAMPLE, headers=BEARING)
        assert (answer.status_code, answer.json()["probability"]) == (200, 0.5)
    assert behind.shown == ["Bearer gateways"]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "Bearer wrong")],
        [("Authorization", "Basic opensesame")],
        [("Authorization", "Bearer opensesame")] * 2,
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/version", "/v2", "/v2/models/volatility/infer", "/moon", "/health/"])
async def test_a_caller_without_a_token_cannot_see_which_paths_exist(
    tokens: Path, path: str, headers: list[tuple[str, str]]
) -> None:
    behind = Server()
    async with gateway(behind, tokens) as client:
        for method in ("GET", "POST"):
            answer = await client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (401, REFUSAL_TEXT)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert behind.shown == []


async def test_probes_and_scrapers_need_no_token_and_a_probe_sees_only_readiness(tokens: Path) -> None:
    async with gateway(Server(), tokens) as client:
        assert (await client.get("/health")).json() == {"ready": True}
        assert (await client.get("/health", headers=BEARING)).json()["models"][0]["name"] == "volatility"
        for path in ("/metrics", "/docs", "/openapi.json", "/v2/health/live"):
            assert (await client.get(path)).status_code == 200


async def test_the_description_states_facts_of_models_to_callers_with_a_token_only(tokens: Path) -> None:
    async with gateway(Server(), tokens) as client:
        assert "volatility/7" not in (await client.get("/openapi.json")).text
        assert "rows of volatility/7: 1.5 to 2.5" in (await client.get("/openapi.json", headers=BEARING)).text


async def test_the_description_is_served_without_an_inference_server() -> None:
    async with gateway(Server(grpc.StatusCode.UNAVAILABLE), None) as client:
        assert "/predict" in (await client.get("/openapi.json")).json()["paths"]


def test_every_open_path_is_a_route() -> None:
    app = create_app("127.0.0.1:1", 1.0, Log())
    paths = {route.path for route in app.routes if isinstance(route, Route)}
    paths |= set(app.openapi()["paths"])
    assert paths >= OPEN_PATHS


async def test_without_tokens_everyone_is_answered() -> None:
    async with gateway(Server(), None) as client:
        assert (await client.post("/predict", json=CORE_1_EXAMPLE)).status_code == 200
        assert "models" in (await client.get("/health")).json()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.INTERNAL, 500),
        (grpc.StatusCode.UNKNOWN, 500),
        (grpc.StatusCode.DATA_LOSS, 500),
        (grpc.StatusCode.PERMISSION_DENIED, 500),
        (grpc.StatusCode.UNAUTHENTICATED, 503),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.CANCELLED, 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/v2/models/volatility"])
async def test_the_words_of_a_failure_inside_never_reach_a_caller(
    code: grpc.StatusCode, status: int, path: str
) -> None:
    async with gateway(Server(code), None) as client:
        method = "POST" if path == "/predict" else "GET"
        answer = await client.request(method, path, content=json.dumps(CORE_1_EXAMPLE))
        assert answer.status_code == status
        health = await client.get("/health")
        for text in (answer.text, health.text):
            assert SECRET not in text
            assert "127.0.0.1" not in text


async def test_an_error_nobody_thought_of_is_a_plain_500(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr("server.gateway.app.predict_request", broken)
    async with gateway(Server(), None) as client:
        answer = await client.post("/predict", json=CORE_1_EXAMPLE)
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error", "violations": []})


@pytest.mark.process
def test_https_takes_a_new_certificate_and_tokens_without_a_restart(tmp_path: Path, tokens: Path) -> None:
    ours, others = Authority(), Authority()
    files = Files(tmp_path, ours)

    def status(address: str, authority: Authority) -> int:
        trust = ssl.create_default_context(cadata=authority.pem.decode())
        try:
            return httpx.get(f"https://{address}/version", headers=BEARING, verify=trust, trust_env=False).status_code
        except httpx.ConnectError:
            return 0

    with running(
        *("gateway", "--port", "0", "--server", "127.0.0.1:1"),
        VOLCAST_GATEWAY__TLS_CERT=str(files.cert),
        VOLCAST_GATEWAY__TLS_KEY=str(files.key),
        VOLCAST_GATEWAY__TOKENS_FILE=str(tokens),
    ) as process:
        assert (status(process.address, ours), status(process.address, others)) == (200, 0)
        files.write(*others.signed())
        await_true(lambda: status(process.address, others) == 200, 15)
        assert status(process.address, ours) == 0
        tokens.write_text("0" * 64 + " another\n")
        await_true(lambda: status(process.address, others) == 401, 15)


@pytest.mark.process
def test_plaintext_beyond_loopback_is_refused_in_one_line_unless_it_is_allowed() -> None:
    done = run_to_end("gateway", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert done.stderr.startswith("volcast: gateway.host: plaintext on 0.0.0.0 ")
    assert done.stderr.count("\n") == 1
