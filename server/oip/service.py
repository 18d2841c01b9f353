"""The methods of `inference.GRPCInferenceService`: predictions, health, metadata, the model repository."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import msgspec

from common.errors import ModelNotFoundError, RequestError, UnsupportedError
from common.versions import version_order
from server.core.graph_signature import QUANTILES
from server.core.models import ReloadResult, Repository
from server.core.requests import PredictInput, Selection
from server.core.snapshot import Model
from server.core.tensors import FEATURES
from server.oip import NOT_UNLOADED
from server.oip.infer import InferFrame, decode
from server.oip.outputs import output_names
from server.rpc.inference import parse
from server.rpc.methods import Method, Methods, Scoring, ScoringStream, StreamContext, StreamMethod, Unary
from server.runtime.state import ServerState
from volcast.oip.v2 import (
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)

SERVICE = "inference.GRPCInferenceService"
NAME = "volcast"
PLATFORM = "onnx_onnxv1"  # the protocol's name of ONNX
# Extensions that Triton defines. The gateway implements binary_tensor_data, which exists for REST only.
EXTENSIONS = ("binary_tensor_data", "model_repository")

TensorMetadata = ModelMetadataResponse.TensorMetadata
ModelIndex = RepositoryIndexResponse.ModelIndex


class FeatureFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of the property `features`. low, high: smallest and largest value of the training rows, if known."""

    unit: str
    used: bool
    low: float | None = None
    high: float | None = None


def properties(model: Model) -> dict[str, str]:
    """Facts that the protocol has no field for. Empty if the model states none.

    features: JSON, by name. spike_bps: the default spike size. takes_spike_multiple: "true" or "false".
    """
    stated: dict[str, str] = {}
    if model.inputs or model.ranges:
        facts = {
            feature.name: FeatureFacts(
                feature.unit, model.uses(feature.name), *model.ranges.get(feature.name, (None, None))
            )
            for feature in model.schema.features
        }
        stated["features"] = msgspec.json.encode(facts).decode()
    if model.forecast is not None:
        stated["spike_bps"] = repr(model.forecast.spike_bps)
        stated["takes_spike_multiple"] = "false" if model.forecast.multiples is None else "true"
    return stated


class OpenInference:
    """reload: requests a new read of the models folder; None if this server does not support it."""

    def __init__(
        self, repository: Repository, state: ServerState, reload: Callable[[], Future[ReloadResult]] | None = None
    ) -> None:
        self._repository = repository
        self._state = state
        self._reload = reload

    def methods(self) -> Methods:
        unary = {
            "ServerLive": self.live,
            "ServerReady": self.ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelUnload": self.model_unload,
        }
        methods: dict[str, Method] = {f"/{SERVICE}/{name}": Unary(name, respond) for name, respond in unary.items()}
        # A unary method may be implemented as a stream method: a single request and a single response have the same
        # bytes in both.
        load = StreamMethod("RepositoryModelLoad", self.model_load, one_request=True)
        methods[f"/{SERVICE}/RepositoryModelLoad"] = load
        methods[f"/{SERVICE}/ModelInfer"] = Scoring("ModelInfer", partial(decode, self.outputs_of))
        methods[f"/{SERVICE}/ModelStreamInfer"] = ScoringStream(
            "ModelStreamInfer", partial(InferFrame, self.outputs_of)
        )
        return methods

    def outputs_of(self, request: PredictInput) -> tuple[str, ...]:
        """The outputs of the model that answers a request. Raises ModelNotFoundError."""
        return output_names(self._repository.resolve(request.selection, request.routing_key))

    def live(self, raw: bytes) -> bytes:
        parse(ServerLiveRequest, raw)
        return ServerLiveResponse(live=True).SerializeToString()

    def ready(self, raw: bytes) -> bytes:
        parse(ServerReadyRequest, raw)
        return ServerReadyResponse(ready=self._state.ready).SerializeToString()

    def model_ready(self, raw: bytes) -> bytes:
        request = parse(ModelReadyRequest, raw)
        try:
            self._repository.resolve(Selection(request.name, request.version))
        except ModelNotFoundError:
            return ModelReadyResponse(ready=False).SerializeToString()
        return ModelReadyResponse(ready=self._state.ready).SerializeToString()

    def server_metadata(self, raw: bytes) -> bytes:
        parse(ServerMetadataRequest, raw)
        return ServerMetadataResponse(name=NAME, version=self._state.build, extensions=EXTENSIONS).SerializeToString()

    def model_metadata(self, raw: bytes) -> bytes:
        request = parse(ModelMetadataRequest, raw)
        model = self._repository.resolve(Selection(request.name, request.version))
        versions = [version for name, version in self._repository.snapshot.models if name == model.name]
        return ModelMetadataResponse(
            name=model.name,
            versions=sorted(versions, key=version_order),
            platform=PLATFORM,
            inputs=[TensorMetadata(name=FEATURES, datatype="FP64", shape=[-1, len(model.schema)])],
            outputs=[
                TensorMetadata(name=name, datatype="FP64", shape=[-1, -1] if name == QUANTILES else [-1])
                for name in output_names(model)
            ],
            properties=properties(model),
        ).SerializeToString()

    def repository_index(self, raw: bytes) -> bytes:
        request = parse(RepositoryIndexRequest, raw)
        snapshot = self._repository.snapshot
        state = "READY" if self._state.ready else "UNAVAILABLE"
        entries = {
            (name, version): ModelIndex(name=name, version=version, state=state) for name, version in snapshot.models
        }
        for failure in snapshot.failures:
            if not failure.version:
                continue  # the failure concerns a labels file, and no entry of the index describes labels
            entry = entries.setdefault(
                (failure.name, failure.version),
                ModelIndex(name=failure.name, version=failure.version, state="UNAVAILABLE"),
            )
            entry.reason = failure.public_reason
        ordered = [entries[key] for key in sorted(entries, key=lambda key: (key[0], version_order(key[1])))]
        models = [entry for entry in ordered if entry.state == "READY" or not request.ready]
        return RepositoryIndexResponse(models=models).SerializeToString()

    async def model_load(self, context: StreamContext) -> None:
        """Reads the models folder again and then responds.

        Raises RequestError if the model is refused, ModelNotFoundError if it has no bundle, InputError if the folder
        cannot be read, and UnsupportedError if this server does not load models on request.
        """
        request = parse(RepositoryModelLoadRequest, await context.read() or b"")
        if request.parameters:
            raise RequestError.of("parameters", "expected none: a model comes from its bundle alone")
        if self._reload is None:
            raise UnsupportedError("this server does not load models on request")
        changes = await asyncio.wrap_future(self._reload())
        name = request.model_name or self._repository.default_model
        refused = [failure.public_reason for failure in changes.snapshot.failures if failure.name == name]
        if refused:
            raise RequestError.of("model_name", f"model {name[:64]!r} is refused: {'; '.join(refused)}")
        if not any(loaded == name for loaded, _ in changes.snapshot.models):
            raise ModelNotFoundError.of("model_name", f"no bundle of model {name[:64]!r}")
        await context.write(RepositoryModelLoadResponse().SerializeToString())

    def model_unload(self, raw: bytes) -> bytes:
        parse(RepositoryModelUnloadRequest, raw)
        raise UnsupportedError(NOT_UNLOADED)
