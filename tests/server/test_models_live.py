"""Models that change while a server process answers: taken up, split, shadowed, refused; never a call lost."""

from __future__ import annotations

import json
import os
import queue
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from benchmarks import rolling
from server.core.routing import CanarySplit
from tests.lengths import length
from tests.processes import await_true
from tests.server.bundles import rows, write_bundle
from tests.server.conformance.calls import (
    SERVICE,
    TIMEOUT_S,
    assert_scored,
    call,
    channel_to,
    frame,
    of_model,
    packed,
    predict,
)
from tests.server.processes import Process, serve
from volcast.oip.v2 import RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest
from volcast.v1 import HealthRequest, HealthResponse, ModelStatus, StreamPredictResponse

pytestmark = pytest.mark.process

LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"
WATCH_S = 0.05
SWAPS = length(30, 300)


@dataclass
class Live:
    """A server, and the folder it holds its models in. Each test has a model name of its own."""

    process: Process
    channel: grpc.Channel
    models: Path

    def put(self, name: str, version: str, seed: int) -> None:
        """Replaces the version in a single step, as a deployment does."""
        staged = write_bundle(self.models / f".staged-{seed}", name, version, seed=seed)
        target = self.models / name / version
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            for file in sorted(staged.iterdir()):
                os.replace(file, target / file.name)
        else:
            staged.rename(target)
            staged.parent.rmdir()

    def label(self, name: str, **labels: object) -> None:
        staged = self.models / f".labels-{name}"
        staged.write_text(json.dumps(labels))
        staged.rename(self.models / name / "labels.json")

    def version(self, name: str, key: str = "", **chosen: str) -> str:
        request = of_model(packed(rows(1)), name, **chosen)
        request.routing_key = key
        return predict(self.channel, request).model_version

    def serves(self, name: str, version: str) -> bool:
        try:
            return self.version(name) == version
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return False

    def load(self, name: str) -> None:
        call(self.channel, LOAD, RepositoryModelLoadRequest(model_name=name).SerializeToString())

    def status(self, name: str, version: str) -> ModelStatus:
        raw = call(self.channel, SERVICE + "Health", HealthRequest().SerializeToString())
        (model,) = [
            model for model in HealthResponse.FromString(raw).models if (model.name, model.version) == (name, version)
        ]
        return model


@pytest.fixture(scope="module")
def live(front: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    models = tmp_path_factory.mktemp("live")
    write_bundle(models)
    environ = {"VOLCAST_SERVER__FRONT": front, "VOLCAST_SERVER__WATCH_S": str(WATCH_S)}
    with serve(models, **environ) as process, channel_to(process.address) as channel:
        yield Live(process, channel, models)


@pytest.fixture(scope="module")
def asked(front: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One that looks at its folder only when it is asked to."""
    models = tmp_path_factory.mktemp("asked")
    write_bundle(models)
    environ = {"VOLCAST_SERVER__FRONT": front, "VOLCAST_SERVER__WATCH_S": "0"}
    with serve(models, **environ) as process, channel_to(process.address) as channel:
        yield Live(process, channel, models)


def test_a_new_version_in_the_folder_is_taken_up(live: Live) -> None:
    live.put("dropped", "1", 11)
    await_true(lambda: live.serves("dropped", "1"))
    live.put("dropped", "2", 12)
    await_true(lambda: live.serves("dropped", "2"))
    assert_scored(predict(live.channel, of_model(packed(rows(3)), "dropped")), 12, rows(3))
    assert_scored(predict(live.channel, of_model(packed(rows(3)), "dropped", version="1")), 11, rows(3))
    assert list(live.status("dropped", "2").labels) == ["stable"]


def test_other_bytes_under_the_same_version_are_taken_up(live: Live) -> None:
    live.put("remade", "1", 21)
    await_true(lambda: live.serves("remade", "1"))
    before = predict(live.channel, of_model(packed(rows(1)), "remade")).probabilities
    live.put("remade", "1", 22)
    await_true(lambda: predict(live.channel, of_model(packed(rows(1)), "remade")).probabilities != before)
    assert_scored(predict(live.channel, of_model(packed(rows(2)), "remade")), 22, rows(2))


def test_a_hangup_signal_makes_the_server_look(asked: Live) -> None:
    asked.put("hangup", "1", 31)
    assert not asked.serves("hangup", "1")
    asked.process.popen.send_signal(signal.SIGHUP)
    await_true(lambda: asked.serves("hangup", "1"))


def test_a_load_by_rpc_is_answered_once_the_model_answers(asked: Live) -> None:
    for version in range(1, 6):
        asked.put("loaded", str(version), 40 + version)
        asked.load("loaded")
        assert asked.version("loaded") == str(version)
    index = call(asked.channel, "/inference.GRPCInferenceService/RepositoryIndex", b"")
    states = {
        model.version: model.state
        for model in RepositoryIndexResponse.FromString(index).models
        if model.name == "loaded"
    }
    assert states == {str(version): "READY" for version in range(1, 6)}
    assert RepositoryIndexRequest.FromString(b"") == RepositoryIndexRequest()


def test_the_canary_gets_its_share_of_the_keys_always_the_same_and_more_when_it_is_raised(asked: Live) -> None:
    asked.put("split", "1", 51)
    asked.put("split", "2", 52)
    keys = [f"account-{number}" for number in range(200)]
    before: set[str] = set()
    for share in (0.0, 0.1, 0.5, 1.0):
        asked.label("split", stable="1", canary={"version": "2", "share": share})
        asked.load("split")
        chosen = {key for key in keys if asked.version("split", key) == "2"}
        assert chosen == {key for key in keys if asked.version("split", key) == "2"}
        assert chosen == {key for key in keys if CanarySplit("split", share).picks(key)}
        assert before <= chosen
        before = chosen
    assert chosen == set(keys)
    assert asked.version("split") == "1"  # nobody's key


def test_who_names_a_version_or_a_label_gets_it_whatever_his_key_says(asked: Live) -> None:
    asked.put("pinned", "1", 61)
    asked.put("pinned", "2", 62)
    asked.label("pinned", stable="1", canary={"version": "2", "share": 0.5})
    asked.load("pinned")
    for key in ("", "account-1", "account-2", "account-3"):
        assert [asked.version("pinned", key, version=version) for version in ("1", "2")] == ["1", "2"]
        assert [asked.version("pinned", key, label=label) for label in ("stable", "canary")] == ["1", "2"]


def test_a_shadow_is_scored_beside_the_answers_and_told_in_metrics(asked: Live) -> None:
    asked.put("shadowed", "1", 71)
    asked.put("shadowed", "2", 72)
    asked.label("shadowed", stable="1", shadow=["2"])
    asked.load("shadowed")
    for seed in range(20):
        answer = predict(asked.channel, of_model(packed(rows(5, seed)), "shadowed"))
        assert_scored(answer, 71, rows(5, seed))
    key = 'volcast_server_shadow_rows_total{model="shadowed",version="2"}'
    await_true(lambda: asked.process.metrics().get(key) == 100.0)
    metrics = asked.process.metrics()
    assert 0 <= metrics[key.replace("_rows_total", "_agreed_rows_total")] <= 100
    assert metrics[key.replace("_rows_total", "_difference_max").replace("_total", "")] > 0
    assert list(asked.status("shadowed", "2").labels) == ["shadow"]


def test_a_bad_bundle_never_replaces_a_good_one_and_is_told_in_health_metrics_and_the_rpc(asked: Live) -> None:
    asked.put("kept", "1", 81)
    asked.load("kept")
    good = (asked.models / "kept" / "1" / "model.onnx").read_bytes()
    for damaged in (b"", b"damaged", good[:-1], good[:100] + b"\0" + good[101:]):
        (asked.models / "kept" / "1" / "model.onnx").write_bytes(damaged)
        with pytest.raises(grpc.RpcError) as raised:
            asked.load("kept")
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert_scored(predict(asked.channel, of_model(packed(rows(1)), "kept")), 81, rows(1))
        assert "model.onnx" in asked.status("kept", "1").load_error
        assert asked.status("kept", "1").ready
        assert asked.process.metrics()['volcast_server_model_failing{model="kept",version="1"}'] == 1
    (asked.models / "kept" / "1" / "model.onnx").write_bytes(good)
    asked.load("kept")
    assert asked.status("kept", "1").load_error == ""
    assert 'volcast_server_model_failing{model="kept",version="1"}' not in asked.process.metrics()


def test_labels_that_cannot_stand_leave_those_that_did(asked: Live) -> None:
    asked.put("labelled", "1", 91)
    asked.put("labelled", "2", 92)
    asked.label("labelled", stable="1")
    asked.load("labelled")
    asked.label("labelled", stable="7")
    with pytest.raises(grpc.RpcError, match=r"labels\.json"):
        asked.load("labelled")
    assert asked.version("labelled") == "1"


def test_a_version_that_is_taken_away_is_not_found_and_the_one_before_answers(asked: Live) -> None:
    for version in ("1", "2"):
        asked.put("gone", version, 100 + int(version))
    asked.load("gone")
    assert asked.version("gone") == "2"
    (asked.models / "gone" / "2").rename(asked.models / ".gone")
    asked.load("gone")
    assert asked.version("gone") == "1"
    with pytest.raises(grpc.RpcError) as raised:
        asked.version("gone", version="2")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_stream_lives_through_swaps_and_each_frame_is_of_one_version(asked: Live) -> None:
    frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    asked.put("streamed", "1", 111)
    asked.load("streamed")
    answers = asked.channel.stream_stream(SERVICE + "StreamPredict", bytes, bytes)(
        iter(frames.get, None), timeout=TIMEOUT_S
    )
    for version in range(1, 6):
        if version > 1:
            asked.put("streamed", str(version), 110 + version)
            asked.load("streamed")
        for frame_id in range(3):  # the first is parsed, the others are recognized
            frames.put(frame(frame_id, of_model(packed(rows(2, frame_id)), "streamed")).SerializeToString())
            answer = StreamPredictResponse.FromString(next(answers))
            assert (answer.frame_id, answer.response.model_version) == (frame_id, str(version))
            assert_scored(answer.response, 110 + version, rows(2, frame_id))
    frames.put(None)
    assert list(answers) == []


def test_watchers_of_health_notice_nothing_of_a_swap(asked: Live) -> None:
    watch = asked.channel.unary_stream("/grpc.health.v1.Health/Watch", bytes, bytes)(
        HealthCheckRequest().SerializeToString()
    )
    assert HealthCheckResponse.FromString(next(watch)).status == HealthCheckResponse.SERVING
    statuses: list[bytes] = []
    for version in range(1, 6):
        asked.put("watched", str(version), 120 + version)
        asked.load("watched")
        check = call(asked.channel, "/grpc.health.v1.Health/Check", b"")
        assert HealthCheckResponse.FromString(check).status == HealthCheckResponse.SERVING
    assert watch.is_active()
    watch.cancel()
    with pytest.raises(grpc.RpcError):
        statuses.extend(watch)
    assert statuses == []  # nothing had come since the first


def test_swaps_under_load_fail_no_call(front: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = rolling.swaps(SWAPS, front)
    assert outcome.failures == []
    assert outcome.calls > SWAPS
    assert outcome.frames > SWAPS
    assert {str(SWAPS), str(SWAPS + 1)} <= outcome.versions
    with capsys.disabled():
        print(f"\n{front}: {SWAPS} swaps, {outcome.calls} calls and {outcome.frames} frames, 0 failed")
