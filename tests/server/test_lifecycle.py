"""Start, drain and end of real server processes."""

from __future__ import annotations

import queue
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from common.schema import CORE_1
from tests.server.bundles import rows, write_bundle
from tests.server.processes import Process, run_to_end, serve
from volcast.v1 import PackedRows, PredictRequest, StreamPredictRequest, StreamPredictResponse


@pytest.fixture
def process(models: Path) -> Iterator[Process]:
    with serve(models) as process:
        yield process


def frame() -> bytes:
    packed = PackedRows(schema_hash=CORE_1.hash, data_type=2, row_count=1, values=rows(1).tobytes())
    return StreamPredictRequest(frame_id=1, request=PredictRequest(packed=packed)).SerializeToString()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_order(process: Process, number: int) -> None:
    assert process.stop(number) == 0
    events = [event["event"] for event in process.events()]
    assert events[-2:] == ["draining", "stopped"]


def test_watchers_learn_of_a_drain_and_idle_streams_are_sent_elsewhere(process: Process) -> None:
    frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with grpc.insecure_channel(process.address) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(HealthCheckRequest().SerializeToString())
        assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.SERVING
        stream = channel.stream_stream("/volcast.v1.InferenceService/StreamPredict")(iter(frames.get, None))
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


def test_a_drain_answers_the_frames_on_their_way_first(models: Path) -> None:
    count = 300
    with serve(models) as process, grpc.insecure_channel(process.address) as channel:

        def frames() -> Iterator[bytes]:
            for index in range(count):
                if index == count // 2:
                    process.popen.send_signal(signal.SIGTERM)
                yield frame()

        answers = list(channel.stream_stream("/volcast.v1.InferenceService/StreamPredict")(frames(), timeout=20))
        assert len(answers) == count
        assert process.popen.wait(10) == 0


def test_a_second_signal_ends_the_server_at_once(models: Path) -> None:
    with serve(models, VOLCAST_SERVER__DRAIN_S="60") as process, grpc.insecure_channel(process.address) as channel:
        # A stream that keeps sending is not idle, so that the drain would take its 60 s.
        stop = False

        def endless() -> Iterator[bytes]:
            while not stop:
                yield frame()

        stream = channel.stream_stream("/volcast.v1.InferenceService/StreamPredict")(endless())
        next(stream)
        process.popen.send_signal(signal.SIGTERM)
        for _ in range(200):
            next(stream)
        assert process.stop(signal.SIGTERM, timeout_s=5) == 128 + signal.SIGTERM
        stop = True


def test_a_server_whose_supervisor_has_gone_ends_in_order(process: Process) -> None:
    assert process.abandon() == 0
    assert process.events()[-1]["event"] == "stopped"


def test_metrics_count_what_was_asked(process: Process) -> None:
    with grpc.insecure_channel(process.address) as channel:
        stream = channel.stream_stream("/volcast.v1.InferenceService/StreamPredict")
        assert len(list(stream(iter([frame(), b"\xff"]), timeout=20))) == 2
    with urllib.request.urlopen(f"http://127.0.0.1:{process.ready['metrics_port']}/metrics", timeout=10) as answer:
        samples = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
    assert samples['volcast_server_requests_total{code="OK",method="StreamPredict"}'] == "1.0"
    assert samples['volcast_server_requests_total{code="INVALID_ARGUMENT",method="StreamPredict"}'] == "1.0"
    assert samples['volcast_server_rows_total{model="volatility",version="10"}'] == "1.0"
    assert samples['volcast_server_request_duration_seconds_count{method="StreamPredict"}'] == "2.0"
    assert samples["volcast_server_compute_seconds_count"] == "1.0"
    assert samples["volcast_server_ready"] == "1.0"
    assert samples['volcast_server_models{model="jumps",version="1"}'] == "1.0"
    assert samples["volcast_server_model_load_failures_total"] == "1.0"


@pytest.mark.parametrize(("option", "key"), [("--port", "server.port"), ("--metrics-port", "server.metrics_port")])
def test_a_port_that_is_taken_is_one_line_that_says_what_to_change(models: Path, option: str, key: str) -> None:
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
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"volcast: no usable model 'volatility' in {tmp_path}: bundle {folder}: model.onnx cannot")


def test_a_bundle_that_is_refused_beside_usable_ones_is_logged(process: Process) -> None:
    (refused,) = [event for event in process.events() if event["event"] == "model_refused"]
    assert refused["level"] == "error"
    assert refused["reason"].startswith("bundle ")


def test_a_models_folder_that_is_missing_is_one_line(tmp_path: Path) -> None:
    done = run_to_end("serve", "--models-dir", str(tmp_path / "none"), "--port", "0", "--metrics-port", "0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"volcast: models folder {tmp_path}/none: No such file or directory"


def test_plaintext_beyond_loopback_is_warned_of(models: Path) -> None:
    with serve(models, VOLCAST_SERVER__HOST="0.0.0.0") as process:
        warnings = [event for event in process.events() if event["level"] == "warning"]
    assert [warning["event"] for warning in warnings] == ["plaintext"]
