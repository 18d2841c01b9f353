"""Health, metadata and the model repository, as functions from bytes to bytes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from common.errors import ModelNotFoundError, RequestError, UnsupportedError
from server.core.dataplane import DataPlane
from server.core.models import ReloadResult
from server.oip.service import OpenInference
from server.runtime.state import ServerState
from volcast.oip.v2 import (
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)
from volcast.oip.v2.open_inference_pb2 import DESCRIPTOR


class Context:
    """A dialogue of one request."""

    def __init__(self, raw: bytes) -> None:
        self._raw: bytes | None = raw
        self.written: list[bytes] = []

    async def read(self) -> bytes | None:
        raw, self._raw = self._raw, None
        return raw

    async def write(self, message: bytes) -> None:
        self.written.append(message)


def reloading(plane: DataPlane, asked: list[None]) -> Callable[[], Future[ReloadResult]]:
    """A reload that finds what is held already."""

    def reload() -> Future[ReloadResult]:
        asked.append(None)
        done: Future[ReloadResult] = Future()
        done.set_result(ReloadResult(plane.repository.snapshot, (), (), (), ()))
        return done

    return reload


def index(service: OpenInference, ready: bool = False) -> list[tuple[str, str, str]]:
    answer = RepositoryIndexResponse.FromString(
        service.repository_index(RepositoryIndexRequest(ready=ready).SerializeToString())
    )
    return [(model.name, model.version, model.state) for model in answer.models]


def test_the_table_has_every_method_of_the_service(service: OpenInference) -> None:
    described = DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert set(service.methods()) == {f"/{described.full_name}/{method.name}" for method in described.methods}
    assert all(path.rpartition("/")[2] == method.name for path, method in service.methods().items())


@pytest.mark.parametrize("ready", [True, False])
def test_it_is_live_at_once_and_ready_when_the_server_is(
    service: OpenInference, state: ServerState, ready: bool
) -> None:
    state.ready = ready
    assert ServerLiveResponse.FromString(service.live(b"")).live
    assert ServerReadyResponse.FromString(service.ready(b"")).ready is ready


@pytest.mark.parametrize(
    ("name", "version", "server", "ready"),
    [
        ("", "", True, True),
        ("volatility", "", True, True),
        ("volatility", "9", True, True),
        ("volatility", "11", True, False),  # damaged
        ("volatility", "7", True, False),
        ("moon", "", True, False),
        ("volatility", "9", False, False),
    ],
)
def test_a_model_is_ready_where_it_is_held_by_a_server_that_is(
    service: OpenInference, state: ServerState, name: str, version: str, server: bool, ready: bool
) -> None:
    state.ready = server
    raw = ModelReadyRequest(name=name, version=version).SerializeToString()
    assert ModelReadyResponse.FromString(service.model_ready(raw)).ready is ready


def test_the_server_says_its_name_build_and_extensions(service: OpenInference) -> None:
    answer = ServerMetadataResponse.FromString(service.server_metadata(b""))
    assert (answer.name, answer.version) == ("volcast", "1.2.3")
    assert list(answer.extensions) == ["binary_tensor_data", "model_repository"]


@pytest.mark.parametrize("version", ["", "9"])
def test_a_model_says_its_versions_and_tensors(service: OpenInference, version: str) -> None:
    raw = ModelMetadataRequest(name="volatility", version=version).SerializeToString()
    answer = ModelMetadataResponse.FromString(service.model_metadata(raw))
    assert (answer.name, list(answer.versions), answer.platform) == ("volatility", ["9", "10"], "onnx_onnxv1")
    (taken,), (given,) = answer.inputs, answer.outputs
    assert (taken.name, taken.datatype, list(taken.shape)) == ("features", "FP64", [-1, 11])
    assert (given.name, given.datatype, list(given.shape)) == ("probability", "FP64", [-1])


@pytest.mark.parametrize(("name", "version"), [("moon", ""), ("volatility", "7"), ("volatility", "11")])
def test_metadata_of_an_unknown_model_or_version_is_not_found(service: OpenInference, name: str, version: str) -> None:
    with pytest.raises(ModelNotFoundError):
        service.model_metadata(ModelMetadataRequest(name=name, version=version).SerializeToString())


def test_the_index_lists_every_version_with_its_state(service: OpenInference, state: ServerState) -> None:
    sound = [("jumps", "1", "READY"), ("volatility", "9", "READY"), ("volatility", "10", "READY")]
    assert index(service) == [*sound, ("volatility", "11", "UNAVAILABLE")]
    assert index(service, ready=True) == sound
    state.ready = False
    assert index(service, ready=True) == []
    answer = RepositoryIndexResponse.FromString(service.repository_index(b""))
    assert [bool(model.reason) for model in answer.models] == [False, False, False, True]
    assert "model.onnx is damaged" in answer.models[3].reason


async def test_a_load_asks_for_a_reload_and_is_answered_after_it(plane: DataPlane, state: ServerState) -> None:
    asked: list[None] = []
    context = Context(RepositoryModelLoadRequest(model_name="jumps").SerializeToString())
    await OpenInference(plane.repository, state, reloading(plane, asked)).model_load(context)
    assert (asked, context.written) == ([None], [b""])


async def test_a_load_without_a_name_is_about_the_default_model(plane: DataPlane, state: ServerState) -> None:
    with pytest.raises(RequestError, match=r"model 'volatility' is refused: .*model\.onnx is damaged"):
        await OpenInference(plane.repository, state, reloading(plane, [])).model_load(Context(b""))


async def test_a_load_of_an_unknown_model_is_not_found(plane: DataPlane, state: ServerState) -> None:
    context = Context(RepositoryModelLoadRequest(model_name="moon").SerializeToString())
    with pytest.raises(ModelNotFoundError, match="no bundle of model 'moon'"):
        await OpenInference(plane.repository, state, reloading(plane, [])).model_load(context)


async def test_a_load_that_brings_a_configuration_of_its_own_is_refused(plane: DataPlane, state: ServerState) -> None:
    asked: list[None] = []
    request = RepositoryModelLoadRequest(model_name="volatility")
    request.parameters["config"].string_param = "{}"
    service = OpenInference(plane.repository, state, reloading(plane, asked))
    with pytest.raises(RequestError, match="parameters: expected none"):
        await service.model_load(Context(request.SerializeToString()))
    assert asked == []


async def test_a_server_that_does_not_reload_says_so(service: OpenInference) -> None:
    with pytest.raises(UnsupportedError, match="does not load models on request"):
        await service.model_load(Context(b""))


async def test_bytes_that_are_no_load_request_are_refused(service: OpenInference) -> None:
    with pytest.raises(RequestError, match=r"request: the bytes are no inference\."):
        await service.model_load(Context(b"\xff"))


def test_nothing_is_unloaded_on_request(service: OpenInference) -> None:
    with pytest.raises(UnsupportedError, match="remove the bundle from the models folder"):
        service.model_unload(b"")


@pytest.mark.parametrize(
    "method",
    ["live", "ready", "model_ready", "server_metadata", "model_metadata", "repository_index", "model_unload"],
)
def test_bytes_that_are_no_request_are_refused(service: OpenInference, method: str) -> None:
    with pytest.raises(RequestError, match=r"request: the bytes are no inference\."):
        getattr(service, method)(b"\xff")
