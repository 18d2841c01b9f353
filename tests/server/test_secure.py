"""Who is let in, by real server and gateway processes: tokens, TLS, certificates, and what errors tell."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.processes import await_true
from tests.server.bundles import rows
from tests.server.conformance.calls import SERVICE, call, channel_to, code_of, frame, packed
from tests.server.processes import Process, run_to_end, running, serve
from tests.server.security.authority import Authority, Files
from volcast.v1 import PredictResponse

pytestmark = pytest.mark.process

PREDICT = SERVICE + "Predict"
STREAM = SERVICE + "StreamPredict"
CHECK = "/grpc.health.v1.Health/Check"
OPEN_INFERENCE = "/inference.GRPCInferenceService/"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
CLOSED_UNARY = [PREDICT, SERVICE + "Health", OPEN_INFERENCE + "ServerLive", OPEN_INFERENCE + "ModelInfer"]
CLOSED_UNARY += [OPEN_INFERENCE + "RepositoryModelLoad", SERVICE + "Forecast", "/moon.Phases/Next"]
CLOSED_STREAMS = [STREAM, OPEN_INFERENCE + "ModelStreamInfer", REFLECTION]
WRONG = [(), (("authorization", "Bearer wrong"),), (("authorization", "Basic worker"),), (("authorization", ""),)]
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


def line(token: str) -> str:
    return f"{hashlib.sha256(token.encode()).hexdigest()}  {token}-name\n"


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def one_row() -> bytes:
    return packed(rows(1)).SerializeToString()


def ask(channel: grpc.Channel, path: str, raw: bytes, metadata: Any) -> Any:
    return channel.unary_unary(path, bytes, bytes).future(raw, timeout=20, metadata=metadata)


@pytest.fixture(scope="module")
def tokens(front: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for each server: a test may revoke what stands in it."""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(line("worker") + line("gateway"))
    return file


@pytest.fixture(scope="module")
def closed(front: str, models: Path, tokens: Path) -> Iterator[Process]:
    with serve(models, VOLCAST_SERVER__FRONT=front, VOLCAST_SERVER__TOKENS_FILE=str(tokens)) as process:
        yield process


@pytest.fixture(scope="module")
def endpoint(closed: Process) -> Iterator[grpc.Channel]:
    with channel_to(closed.address) as channel:
        yield channel


@pytest.mark.parametrize("metadata", WRONG)
def test_without_a_right_token_no_method_is_answered_nor_even_named(endpoint: grpc.Channel, metadata: Any) -> None:
    refusals = set()
    for path in CLOSED_UNARY:
        call = ask(endpoint, path, b"", metadata)
        refusals.add((code_of(call), call.details()))
    for path in CLOSED_STREAMS:
        stream = endpoint.stream_stream(path, bytes, bytes)(iter([b""]), timeout=20, metadata=metadata)
        refusals.add((code_of(stream), stream.details()))
    assert refusals == {(UNAUTHENTICATED, "a valid bearer token is needed")}


@pytest.mark.parametrize("token", ["worker", "gateway"])
def test_with_a_right_token_every_method_is_allowed(endpoint: grpc.Channel, token: str) -> None:
    metadata = bearer(token)
    assert ask(endpoint, PREDICT, one_row(), metadata).result()
    assert ask(endpoint, SERVICE + "Health", b"", metadata).result()
    assert ask(endpoint, OPEN_INFERENCE + "ServerLive", b"", metadata).result()
    frames = iter([frame(1, packed(rows(1))).SerializeToString()])
    assert len(list(endpoint.stream_stream(STREAM, bytes, bytes)(frames, timeout=20, metadata=metadata))) == 1
    assert code_of(ask(endpoint, SERVICE + "Forecast", b"", metadata)) is grpc.StatusCode.UNIMPLEMENTED


def test_two_tokens_at_once_are_none(endpoint: grpc.Channel) -> None:
    assert code_of(ask(endpoint, PREDICT, one_row(), bearer("worker") + bearer("gateway"))) is UNAUTHENTICATED


def test_probes_of_health_need_no_token(endpoint: grpc.Channel) -> None:
    assert code_of(ask(endpoint, CHECK, b"", ())) is grpc.StatusCode.OK


def test_a_token_that_is_revoked_counts_no_more_on_connections_that_are_open(
    front: str, models: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(line("worker") + line("gateway"))
    with (
        serve(models, VOLCAST_SERVER__FRONT=front, VOLCAST_SERVER__TOKENS_FILE=str(tokens)) as process,
        channel_to(process.address) as channel,
    ):
        for _ in range(3):
            assert code_of(ask(channel, PREDICT, one_row(), bearer("worker"))) is grpc.StatusCode.OK
        tokens.write_text(line("gateway"))
        await_true(lambda: code_of(ask(channel, PREDICT, one_row(), bearer("worker"))) is UNAUTHENTICATED)
        assert code_of(ask(channel, PREDICT, one_row(), bearer("gateway"))) is grpc.StatusCode.OK
        tokens.write_text("")  # no good: those before it stay
        await_true(lambda: any(event["event"] == "tokens_refused" for event in process.events()))
        assert code_of(ask(channel, PREDICT, one_row(), bearer("gateway"))) is grpc.StatusCode.OK
        assert code_of(ask(channel, PREDICT, one_row(), bearer("worker"))) is UNAUTHENTICATED
        assert not any(secret in str(process.events()) for secret in ("Bearer", "worker-name"))


def test_the_gateway_asks_for_tokens_too_and_shows_its_own(closed: Process, tokens: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("gateway\n")
    with (
        running(
            *("gateway", "--port", "0", "--server", closed.address),
            VOLCAST_GATEWAY__TOKENS_FILE=str(tokens),
            VOLCAST_GATEWAY__SERVER_TOKEN_FILE=str(tmp_path / "own"),
        ) as process,
        httpx.Client(base_url=f"http://{process.address}", trust_env=False) as client,
    ):
        infer = "/v2/models/volatility/infer"
        body = {"inputs": [{"name": "features", "datatype": "FP64", "shape": [1, 11], "data": rows(1)[0].tolist()}]}
        for headers in ({}, {"authorization": "Bearer wrong"}):
            assert client.post(infer, json=body, headers=headers).status_code == 401
            assert client.post("/predict", json={}, headers=headers).status_code == 401
            assert client.get("/moon", headers=headers).status_code == 401
        answer = client.post(infer, json=body, headers=dict(bearer("worker")))
        assert answer.status_code == 200, answer.text
        assert client.get("/health").status_code == 200


def trusted(address: str, authority: Authority, shown: tuple[bytes, bytes] | None = None) -> grpc.Channel:
    cert, key = shown or (None, None)
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.pem, key, cert), options=options)


def code_through(channel: grpc.Channel, metadata: Any = ()) -> grpc.StatusCode:
    with channel:
        return code_of(ask(channel, PREDICT, one_row(), metadata))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def successor() -> Authority:
    return Authority("another test authority")


def test_mutual_tls_requires_a_certificate_and_reloads_its_authority_without_a_restart(
    front: str, models: Path, tmp_path: Path, authority: Authority, successor: Authority
) -> None:
    files = Files(tmp_path, authority)
    options = ("--tls-cert", str(files.cert), "--tls-key", str(files.key), "--tls-client-ca", str(files.client_ca))
    ports = ("--port", "0", "--metrics-port", "0", "--models-dir", str(models))
    ok, away = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
    with (
        running("serve", *ports, *options, "--front", front) as process,
        trusted(process.address, authority, authority.signed("caller")) as old,
    ):
        address = process.address
        assert code_of(ask(old, PREDICT, one_row(), ())) is ok
        assert code_through(trusted(address, authority)) is away
        assert code_through(trusted(address, authority, successor.signed("caller"))) is away
        assert code_through(trusted(address, successor, authority.signed("caller"))) is away
        assert code_through(channel_to(address)) is away

        files.client_ca.write_bytes(successor.pem)
        files.write(*successor.signed())

        assert code_through(trusted(address, successor, successor.signed("caller"))) is ok
        assert code_through(trusted(address, authority, authority.signed("caller"))) is away
        assert code_of(ask(old, PREDICT, one_row(), ())) is ok  # the connection in hand goes on
        assert process.stop() == 0


def test_tls_and_tokens_go_together(front: str, models: Path, tmp_path: Path, authority: Authority) -> None:
    files = Files(tmp_path, authority)
    (tmp_path / "tokens").write_text(line("worker"))
    environ = {
        "VOLCAST_SERVER__FRONT": front,
        "VOLCAST_SERVER__TLS_CERT": str(files.cert),
        "VOLCAST_SERVER__TLS_KEY": str(files.key),
        "VOLCAST_SERVER__TOKENS_FILE": str(tmp_path / "tokens"),
        "VOLCAST_SERVER__HOST": "0.0.0.0",  # with TLS no flag is needed
    }
    with serve(models, **environ) as process:
        address = f"127.0.0.1:{process.ready['port']}"
        assert code_through(trusted(address, authority)) is UNAUTHENTICATED
        assert code_through(trusted(address, authority), bearer("worker")) is grpc.StatusCode.OK
        assert not [event for event in process.events() if event["event"] == "plaintext"]


def refusal(models: Path, *options: str) -> str:
    """Returns the only line that a server prints if it does not start."""
    ports = ("--port", "0", "--metrics-port", "0", "--models-dir", str(models))
    done = run_to_end("serve", *ports, *options)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    return line


def test_many_calls_a_large_message_and_a_stream_go_through_tls(
    front: str, models: Path, tmp_path: Path, authority: Authority
) -> None:
    files = Files(tmp_path, authority)
    environ = {"FRONT": front, "TLS_CERT": str(files.cert), "TLS_KEY": str(files.key)}
    with (
        serve(models, **{f"VOLCAST_SERVER__{key}": value for key, value in environ.items()}) as process,
        trusted(f"127.0.0.1:{process.ready['port']}", authority) as channel,
    ):
        asked = [ask(channel, PREDICT, packed(rows(count)).SerializeToString(), ()) for count in [1] * 100 + [20_000]]
        answers = [PredictResponse.FromString(call.result()) for call in asked]
        assert [len(answer.probabilities) for answer in answers] == [1] * 100 + [20_000]
        frames = iter([frame(number, packed(rows(1))).SerializeToString() for number in range(1, 101)])
        assert len(list(channel.stream_stream(STREAM, bytes, bytes)(frames, timeout=20))) == 100
        assert process.stop() == 0


def test_auto_takes_the_native_front_for_tls_too(models: Path, tmp_path: Path, authority: Authority) -> None:
    files = Files(tmp_path, authority)
    with serve(models, VOLCAST_SERVER__TLS_CERT=str(files.cert), VOLCAST_SERVER__TLS_KEY=str(files.key)) as process:
        assert process.ready["front"] == "native"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_plaintext_beyond_loopback_is_refused_in_one_line(models: Path, host: str) -> None:
    line = refusal(models, "--host", host)
    assert line.startswith(f"volcast: server.host: plaintext on {host} can be read and changed by others")
    assert "--allow-plaintext" in line


def test_a_certificate_without_its_key_is_refused_in_one_line(
    models: Path, tmp_path: Path, authority: Authority
) -> None:
    files = Files(tmp_path, authority)
    assert "server.tls_key" in refusal(models, "--tls-cert", str(files.cert))
    files.key.write_bytes(authority.signed()[1])
    line = refusal(models, "--tls-cert", str(files.cert), "--tls-key", str(files.key))
    assert line == f"volcast: TLS key {files.key}: not an unencrypted PEM key of the certificate {files.cert}"


def test_reflection_can_be_off(models: Path, front: str) -> None:
    with (
        serve(models, VOLCAST_SERVER__FRONT=front, VOLCAST_SERVER__REFLECTION="false") as process,
        channel_to(process.address) as channel,
    ):
        for version in ("v1", "v1alpha"):
            path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            assert (
                code_of(channel.stream_stream(path, bytes, bytes)(iter([b""]), timeout=20))
                is grpc.StatusCode.UNIMPLEMENTED
            )
        assert call(channel, PREDICT, one_row())


def test_errors_tell_nothing_of_the_inside(server: Process, models: Path) -> None:
    """Of whatever is sent: no path, no Python, no text of a library."""
    wrong = [b"\xff", b"\x0a\x00", bytes(300), packed(rows(1), values=b"1").SerializeToString()]
    paths = [PREDICT, SERVICE + "Forecast", OPEN_INFERENCE + "ModelInfer", OPEN_INFERENCE + "ModelMetadata", CHECK]
    with channel_to(server.address) as channel:
        for path in paths:
            for raw in wrong:
                call = ask(channel, path, raw, ())
                if code_of(call) is grpc.StatusCode.OK:
                    continue
                assert call.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
                visible = f"{call.details()} {call.trailing_metadata()} {call.initial_metadata()}"
                for inside in (str(models), ".py", "Traceback", "Exception", "onnx", "numpy", "google.protobuf"):
                    assert inside not in visible.replace("volcast.v1", "").replace("type.googleapis.com", "")
