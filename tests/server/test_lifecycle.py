"""Start, drain and end of real server processes."""

from __future__ import annotations

import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from benchmarks import rolling
from benchmarks.processes import free_port
from common.schema import CORE_1
from tests.lengths import length
from tests.processes import await_true
from tests.server.bundles import rows, write_bundle
from tests.server.conformance.calls import SERVICE, call, channel_to, code_of, packed
from tests.server.conformance.wire import Wire
from tests.server.processes import Process, run_to_end, serve, starting
from tests.server.security.raw import DATA, GOAWAY
from volcast.v1 import (
    DATA_TYPE_FLOAT64,
    HealthResponse,
    PackedRows,
    PredictRequest,
    StreamPredictRequest,
    StreamPredictResponse,
)

pytestmark = pytest.mark.process

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
PREDICT = SERVICE + "Predict"
STREAM_PREDICT = SERVICE + "StreamPredict"
RESTARTS = length(2, 20)


@pytest.fixture
def process(models: Path, front: str) -> Iterator[Process]:
    with serve(models, VOLCAST_SERVER__FRONT=front) as process:
        yield process


@pytest.fixture
def patient(models: Path, front: str) -> Iterator[Process]:
    """A call that waits for a batch is in hand for a second."""
    with serve(models, VOLCAST_SERVER__FRONT=front, VOLCAST_SERVER__MAX_QUEUE_DELAY_US="1000000") as process:
        yield process


def frame() -> bytes:
    packed = PackedRows(schema_hash=CORE_1.hash, data_type=DATA_TYPE_FLOAT64, row_count=1, values=rows(1).tobytes())
    return StreamPredictRequest(frame_id=1, request=PredictRequest(packed=packed)).SerializeToString()


def one_row() -> bytes:
    return packed(rows(1)).SerializeToString()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_order(process: Process, number: int) -> None:
    assert process.stop(number) == 0
    events = [event["event"] for event in process.events()]
    assert events[-2:] == ["draining", "stopped"]


def test_watchers_learn_of_a_drain_and_idle_streams_are_sent_elsewhere(process: Process) -> None:
    frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with grpc.insecure_channel(process.address) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch", bytes, bytes)(
            HealthCheckRequest().SerializeToString()
        )
        assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.SERVING
        stream = channel.stream_stream("/volcast.v1.InferenceService/StreamPredict", bytes, bytes)(
            iter(frames.get, None)
        )
        frames.put(frame())
        assert StreamPredictResponse.FromString(next(stream)).HasField("response")

        process.popen.send_signal(signal.SIGTERM)

        assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.NOT_SERVING
        assert list(watch) == []
        with pytest.raises(grpc.RpcError) as raised:
            next(stream)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert raised.value.details() == "the server is draining"
        frames.put(None)
    assert process.popen.wait(10) == 0


def test_a_drain_answers_the_frames_on_their_way_first(process: Process) -> None:
    count = 300
    with grpc.insecure_channel(process.address) as channel:

        def frames() -> Iterator[bytes]:
            for index in range(count):
                if index == count // 2:
                    process.popen.send_signal(signal.SIGTERM)
                yield frame()

        answers = list(
            channel.stream_stream("/volcast.v1.InferenceService/StreamPredict", bytes, bytes)(frames(), timeout=20)
        )
        assert len(answers) == count
        assert process.popen.wait(10) == 0


def test_calls_in_hand_are_answered_after_health_has_turned_and_new_ones_are_refused(patient: Process) -> None:
    ended: list[str] = []
    with channel_to(patient.address) as channel, channel_to(patient.address) as late:
        call(late, CHECK, b"")  # connected before the end begins
        watch = channel.unary_stream(WATCH, bytes, bytes)(b"")
        assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.SERVING
        in_hand = [channel.unary_unary(PREDICT, bytes, bytes).future(one_row(), timeout=20) for _ in range(5)]
        for pending in in_hand:
            pending.add_done_callback(lambda _: ended.append("call"))
        call(channel, CHECK, b"")  # behind them on the wire: they have arrived
        patient.popen.send_signal(signal.SIGTERM)
        assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.NOT_SERVING
        ended.append("health")
        assert list(watch) == []
        assert all(pending.result() for pending in in_hand)

        def refused() -> bool:
            with channel_to(patient.address) as new:
                codes = [
                    code_of(channel.unary_unary(PREDICT, bytes, bytes).future(one_row(), timeout=20))
                    for channel in (new, late)
                ]
            return codes == [grpc.StatusCode.UNAVAILABLE] * 2

        await_true(refused)
    assert ended == ["health"] + ["call"] * 5
    assert patient.popen.wait(10) == 0


def test_a_stream_with_a_frame_every_5_ms_ends_with_unavailable_after_its_last_answer(process: Process) -> None:
    sent, stop = 0, threading.Event()

    def frames() -> Iterator[bytes]:
        nonlocal sent
        while not stop.wait(0.005):
            sent += 1
            yield frame()

    with channel_to(process.address) as channel:
        stream = channel.stream_stream(STREAM_PREDICT, bytes, bytes)(frames(), timeout=20)
        answers = [next(stream) for _ in range(20)]
        process.popen.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as raised:
            answers.extend(stream)
        stop.set()
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is draining")
    assert all(StreamPredictResponse.FromString(answer).HasField("response") for answer in answers)
    assert sent - len(answers) <= 2  # sent after the last answered frame
    assert process.popen.wait(10) == 0


def test_a_peer_that_sends_through_the_drain_reads_the_status_and_no_reset(models: Path) -> None:
    """Bytes that nobody reads turn a close into a TCP reset, which discards what the peer has not read yet."""
    with serve(models, VOLCAST_SERVER__DRAIN_S="1") as process, Wire(process.address) as wire:
        wire.open_call(1, STREAM_PREDICT)
        stop = threading.Event()

        def send() -> None:
            with suppress(OSError):
                while not stop.wait(0.001):
                    wire.message(1, frame(), end=False)

        sender = threading.Thread(target=send)
        sender.start()
        while wire.read()[:3] != (DATA, 0, 1):
            pass
        process.popen.send_signal(signal.SIGTERM)
        fields, messages = wire.answer(1)
        assert (fields["grpc-status"], fields["grpc-message"]) == ("14", "the server is draining")
        assert messages
        while wire.next() is not None:
            pass
        stop.set()
        sender.join()
        assert process.popen.wait(10) == 0


@pytest.mark.parametrize("drain_s", ["0", "0.2"])
def test_streams_that_never_pause_end_with_unavailable_too(models: Path, front: str, drain_s: str) -> None:
    stop = threading.Event()

    def frames() -> Iterator[bytes]:
        while not stop.is_set():
            yield frame()

    with (
        serve(models, VOLCAST_SERVER__FRONT=front, VOLCAST_SERVER__DRAIN_S=drain_s) as process,
        channel_to(process.address) as channel,
    ):
        stream = channel.stream_stream(STREAM_PREDICT, bytes, bytes)(frames(), timeout=20)
        next(stream)
        process.popen.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as raised:
            list(stream)
        stop.set()
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        # With grpcio's server the client may be writing when the connection closes, and then gives that as the reason.
        details = (
            ("the server is draining", "sendmsg: Broken pipe") if front == "grpcio" else ("the server is draining",)
        )
        assert any(text in (raised.value.details() or "") for text in details)
        assert process.popen.wait(10) == 0


def test_a_dialogue_that_stays_open_ends_with_unavailable_before_the_drain_is_over(models: Path, front: str) -> None:
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with (
        serve(models, VOLCAST_SERVER__FRONT=front, VOLCAST_SERVER__DRAIN_S="60") as process,
        channel_to(process.address) as channel,
    ):
        reflection = channel.stream_stream(REFLECTION, bytes, bytes)(iter(requests.get, None), timeout=40)
        requests.put(ServerReflectionRequest(list_services="").SerializeToString())
        next(reflection)
        process.popen.send_signal(signal.SIGTERM)
        assert code_of(reflection) is grpc.StatusCode.UNAVAILABLE
        requests.put(None)
        assert process.popen.wait(10) == 0


def test_a_server_that_leaves_says_so_and_still_answers_new_connections(models: Path, front: str) -> None:
    lame_duck_s = 1.0
    environ = {"VOLCAST_SERVER__FRONT": front, "VOLCAST_SERVER__LAME_DUCK_S": str(lame_duck_s)}
    with serve(models, **environ) as process, channel_to(process.address) as channel:
        watch = channel.unary_stream(WATCH, bytes, bytes)(b"", timeout=20)
        assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.SERVING
        began_s = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.NOT_SERVING
        with channel_to(process.address) as late:
            assert HealthCheckResponse.FromString(call(late, CHECK, b"")).status == HealthCheckResponse.NOT_SERVING
            assert not HealthResponse.FromString(call(late, SERVICE + "Health", b"")).ready
            assert process.metrics()["volcast_server_ready"] == 0
            assert call(late, PREDICT, one_row())
            assert len(list(late.stream_stream(STREAM_PREDICT, bytes, bytes)(iter([frame()]), timeout=20))) == 1
        assert call(channel, PREDICT, one_row())
        assert process.popen.wait(10) == 0
        assert time.monotonic() - began_s >= lame_duck_s
        assert list(watch) == []
        events = [event["event"] for event in process.events()]
    assert events[-3:] == ["leaving", "draining", "stopped"]


def test_a_second_signal_skips_the_rest_of_the_lame_duck(models: Path, front: str) -> None:
    environ = {"VOLCAST_SERVER__FRONT": front, "VOLCAST_SERVER__LAME_DUCK_S": "60"}
    with serve(models, **environ) as process, channel_to(process.address) as channel:
        watch = channel.unary_stream(WATCH, bytes, bytes)(b"", timeout=20)
        next(watch)
        process.popen.send_signal(signal.SIGTERM)
        assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.NOT_SERVING
        assert process.stop(signal.SIGINT, timeout_s=10) == 0


def test_every_connection_receives_goaway(process: Process) -> None:
    with Wire(process.address) as busy, Wire(process.address) as idle:
        busy.open_call(1, STREAM_PREDICT)
        busy.message(1, frame(), end=False)
        while busy.read()[:3] != (DATA, 0, 1):
            pass
        process.popen.send_signal(signal.SIGTERM)
        for wire in (busy, idle):
            codes = [payload[4:8] for kind, _, _, payload in iter(wire.next, None) if kind == GOAWAY]
            assert codes
            assert set(codes) == {bytes(4)}  # NO_ERROR
    assert process.popen.wait(10) == 0


def test_what_is_not_done_within_the_drain_is_let_go(models: Path, front: str) -> None:
    slow = {"VOLCAST_SERVER__MAX_QUEUE_DELAY_US": "4000000", "VOLCAST_SERVER__DRAIN_S": "0.5"}
    with (
        serve(models, VOLCAST_SERVER__FRONT=front, **slow) as process,
        channel_to(process.address) as channel,
    ):
        pending = channel.unary_unary(PREDICT, bytes, bytes).future(one_row(), timeout=25)
        call(channel, CHECK, b"")
        began = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        assert code_of(pending) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert process.popen.wait(15) == 0
        assert 0.4 < time.monotonic() - began < 3.5  # the batch would have begun after 4 s
        assert process.events()[-1]["event"] == "stopped"


def test_the_port_is_closed_until_the_server_is_ready(front: str, tmp_path: Path) -> None:
    for version in range(1, 151):
        write_bundle(tmp_path, version=str(version))
    port = free_port()
    options = ("--port", str(port), "--metrics-port", "0", "--models-dir", str(tmp_path), "--front", front)
    with starting("serve", *options) as process:
        refusals = 0
        while not is_open(port):
            assert process.popen.poll() is None
            refusals += 1
            time.sleep(0.005)  # as a startup probe asks, more often
        with channel_to(f"127.0.0.1:{port}") as channel:
            assert HealthCheckResponse.FromString(call(channel, CHECK, b"")).status == HealthCheckResponse.SERVING
            assert call(channel, PREDICT, one_row())
        assert refusals > 0
        assert process.ready["front"] == front


def test_a_server_without_a_usable_model_never_opens_its_port(front: str, tmp_path: Path) -> None:
    (write_bundle(tmp_path) / "model.onnx").write_bytes(b"damaged")
    port = free_port()
    options = ("--port", str(port), "--metrics-port", "0", "--models-dir", str(tmp_path), "--front", front)
    with starting("serve", *options) as process:
        while process.popen.poll() is None:
            assert not is_open(port)
            time.sleep(0.005)
        assert process.popen.wait() == 1
        assert process.lines()[-1].startswith("volcast: no usable model 'volatility'")


def test_rolling_restarts_behind_a_client_that_retries_fail_no_call(front: str) -> None:
    outcome = rolling.restarts(RESTARTS, front)
    assert outcome.failures == []
    assert outcome.calls >= RESTARTS * rolling.CALLS_OF_A_REPLICA


def test_a_second_signal_ends_the_server_at_once(models: Path, front: str) -> None:
    long = {"VOLCAST_SERVER__FRONT": front, "VOLCAST_SERVER__DRAIN_S": "60"}
    with serve(models, **long) as process, grpc.insecure_channel(process.address) as channel:
        # A stream that keeps sending is not idle, so that the drain would take its 60 s.
        stop = False

        def endless() -> Iterator[bytes]:
            while not stop:
                yield frame()

        stream = channel.stream_stream("/volcast.v1.InferenceService/StreamPredict", bytes, bytes)(endless())
        next(stream)
        process.popen.send_signal(signal.SIGTERM)
        for _ in range(200):
            next(stream)
        assert process.stop(signal.SIGTERM, timeout_s=5) == 128 + signal.SIGTERM
        stop = True


def test_a_server_whose_supervisor_has_gone_ends_in_order(process: Process) -> None:
    assert process.abandon() == 0
    assert process.events()[-1]["event"] == "stopped"


def test_metrics_count_requests(process: Process) -> None:
    with grpc.insecure_channel(process.address) as channel:
        stream = channel.stream_stream("/volcast.v1.InferenceService/StreamPredict", bytes, bytes)
        assert len(list(stream(iter([frame(), b"\xff"]), timeout=20))) == 2
    samples = process.metrics()
    assert samples['volcast_server_requests_total{code="OK",method="StreamPredict"}'] == 1.0
    assert samples['volcast_server_requests_total{code="INVALID_ARGUMENT",method="StreamPredict"}'] == 1.0
    assert samples['volcast_server_rows_total{model="volatility",version="10"}'] == 1.0
    assert samples['volcast_server_request_duration_seconds_count{method="StreamPredict"}'] == 2.0
    assert samples["volcast_server_compute_seconds_count"] == 1.0
    assert samples["volcast_server_ready"] == 1.0
    assert samples['volcast_server_models{model="jumps",version="1"}'] == 1.0
    assert samples["volcast_server_model_load_failures_total"] == 1.0


@pytest.mark.parametrize(("option", "key"), [("--port", "server.port"), ("--metrics-port", "server.metrics_port")])
def test_a_taken_port_prints_a_single_line_with_the_option_to_change(models: Path, option: str, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"--port": "0", "--metrics-port": "0", option: port}
        done = run_to_end("serve", "--models-dir", str(models), *(part for pair in ports.items() for part in pair))
    assert done.returncode == 1
    assert done.stderr == (
        f"volcast: port {port} on 127.0.0.1: Address already in use; choose another with {option} or {key}\n"
    )


def test_a_server_without_a_usable_model_says_why_and_does_not_start(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "model.onnx").unlink()
    ports = ("--port", "0", "--metrics-port", "0")
    done = run_to_end("serve", "--models-dir", str(tmp_path), *ports)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"volcast: no usable model 'volatility' in {tmp_path}: bundle {folder}: model.onnx cannot"
    )


def test_a_bundle_that_is_refused_beside_usable_ones_is_logged(process: Process) -> None:
    (refused,) = [event for event in process.events() if event["event"] == "model_refused"]
    assert refused["level"] == "error"
    assert refused["reason"].startswith("bundle ")


def test_a_models_folder_that_is_missing_is_one_line(tmp_path: Path) -> None:
    done = run_to_end("serve", "--models-dir", str(tmp_path / "none"), "--port", "0", "--metrics-port", "0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"volcast: models folder {tmp_path}/none: No such file or directory"


def test_plaintext_beyond_loopback_is_warned_of_though_it_is_allowed(models: Path) -> None:
    with serve(models, VOLCAST_SERVER__HOST="0.0.0.0", VOLCAST_SERVER__ALLOW_PLAINTEXT="true") as process:
        warnings = [event for event in process.events() if event["level"] == "warning"]
    assert [warning["event"] for warning in warnings] == ["plaintext"]
