"""Tokens and TLS as callers show them, at a server that asks for both."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from clients.aio import AsyncClient
from clients.sync import Client
from common.access import Access, make_access, read_token
from common.errors import InputError, UnauthenticatedError, UnavailableError, UsageError
from server.security.tls import Certificates
from tests.server.security.authority import Authority, Files
from tests.server.security.conftest import Log
from volcast.v1 import HealthResponse, PredictResponse, StreamPredictResponse

TOKEN = "opensesame"


def _admitted(answer: bytes) -> Any:
    def answered(request: bytes, context: grpc.ServicerContext) -> bytes:
        _require_token(context)
        return answer

    return answered


def _streamed(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    _require_token(context)
    for index, _ in enumerate(requests, 1):
        yield StreamPredictResponse(frame_id=index, response=PredictResponse(probabilities=[0.5])).SerializeToString()


def _require_token(context: grpc.ServicerContext) -> None:
    if ("authorization", f"Bearer {TOKEN}") not in context.invocation_metadata():
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid bearer token is needed")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Files:
    files = Files(tmp_path_factory.mktemp("tls"), authority)
    cert, key = authority.signed("caller")
    (files.cert.parent / "caller.crt").write_bytes(cert)
    (files.cert.parent / "caller.key").write_bytes(key)
    return files


@pytest.fixture(scope="module")
def address(files: Files) -> Iterator[str]:
    """A server that takes only callers with a certificate and the token."""
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        handlers: Any = {
            "Health": grpc.unary_unary_rpc_method_handler(_admitted(HealthResponse(ready=True).SerializeToString())),
            "Predict": grpc.unary_unary_rpc_method_handler(
                _admitted(PredictResponse(probabilities=[0.5]).SerializeToString())
            ),
            "StreamPredict": grpc.stream_stream_rpc_method_handler(_streamed),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("volcast.v1.InferenceService", handlers),)
        )
        credentials = Certificates(files.cert, files.key, files.client_ca, Log()).credentials()
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def access(files: Files, token: str = TOKEN) -> Access:
    folder = files.cert.parent
    return make_access(token, ca=files.client_ca, cert=folder / "caller.crt", key=folder / "caller.key")


def test_the_client_shows_its_token_and_certificate_on_every_kind_of_call(files: Files, address: str) -> None:
    with Client(address, timeout_s=10, access=access(files)) as client, client.stream() as stream:
        assert client.health().ready
        assert client.predict_named([{"price": 1.0}]).probabilities[0] == 0.5
        assert stream.predict_packed(bytes(8), 1, "hash").probabilities[0] == 0.5


async def test_the_async_client_shows_them_too(files: Files, address: str) -> None:
    async with AsyncClient(address, timeout_s=10, access=access(files)) as client, client.stream() as stream:
        assert (await client.health()).ready
        assert (await client.predict_named([{"price": 1.0}])).probabilities[0] == 0.5
        assert (await stream.predict_packed(bytes(8), 1, "hash")).probabilities[0] == 0.5


async def test_a_token_that_is_not_known_is_unauthenticated(files: Files, address: str) -> None:
    for token in ("", "wrong"):
        with Client(address, timeout_s=10, access=access(files, token)) as client:
            with pytest.raises(UnauthenticatedError, match="a valid bearer token is needed"):
                client.health()
            with client.stream() as stream, pytest.raises(UnauthenticatedError):
                stream.predict_packed(bytes(8), 1, "hash")
        async with AsyncClient(address, timeout_s=10, access=access(files, token)) as other:
            with pytest.raises(UnauthenticatedError):
                await other.health()


def test_without_a_certificate_or_tls_there_is_no_connection(files: Files, address: str) -> None:
    for less in (make_access(TOKEN), make_access(TOKEN, tls=True), make_access(TOKEN, ca=files.client_ca)):
        with Client(address, timeout_s=10, access=less) as client, pytest.raises(UnavailableError):
            client.health()


def test_what_is_secret_does_not_show(files: Files) -> None:
    shown = repr(access(files))
    assert TOKEN not in shown
    assert "PRIVATE" not in shown


def test_options_that_do_not_fit_are_told(files: Files, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="go together"):
        make_access(cert=files.cert)
    with pytest.raises(UsageError, match="one word"):
        make_access("two words")
    with pytest.raises(UsageError, match="one word"):
        make_access("café")
    with pytest.raises(InputError, match=r"PEM file .*none: cannot be read: No such file"):
        make_access(ca=tmp_path / "none")


def test_a_token_file_holds_one_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"  {TOKEN}\n")
    assert read_token(file) == TOKEN
    assert read_token("") == ""
    file.write_text("\n")
    with pytest.raises(InputError, match="empty"):
        read_token(file)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_token(tmp_path / "none")
